import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** Takes trades into panes on the heap, writes each closed pane to the store {@link PanesJob#CLOSED} and its features to the topic. */
class PaneProcessor implements Processor<String, byte[], String, String> {
    final Map<String, Panes> open = new HashMap<>();
    final Clock clock;
    KeyValueStore<byte[], byte[]> closed;

    private final TradeReader reader;
    private ProcessorContext<String, String> context;

    PaneProcessor(Clock clock, TradeReader reader) {
        this.clock = clock;
        this.reader = reader;
    }

    @Override
    public void init(ProcessorContext<String, String> context) {
        this.context = context;
        this.closed = context.getStateStore(PanesJob.CLOSED);
    }

    @Override
    public void process(Record<String, byte[]> record) {
        if (clock.tick()) {
            take(record);
        }
    }

    /** Takes a trade, and returns its instrument's panes. */
    Panes take(Record<String, byte[]> record) {
        Panes panes = open.get(record.key());
        if (panes == null) {
            panes = new Panes();
            open.put(record.key(), panes);
        }
        long pane = panes.pane;
        long before = panes.total;
        String features = panes.add(reader.read(record.value()));
        if (features != null) {
            byte[] slot = (record.key() + '|' + pane % Panes.RING).getBytes(StandardCharsets.UTF_8);
            closed.put(slot, new Closed(pane, before, panes.total).bytes());
            context.forward(record.withValue(features));
        }
        return panes;
    }
}
