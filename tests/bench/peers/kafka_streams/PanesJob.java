import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/** Hand-written panes with the Processor API: the open pane on the heap, a closed one in RocksDB with its changelog and in a topic. */
final class PanesJob {
    private static final String STORE = "panes";

    private PanesJob() {}

    static Topology topology(String input, String output, Clock clock) {
        Topology topology = new Topology();
        topology.addSource("trades", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), input);
        topology.addProcessor("features", () -> new PaneProcessor(clock), "trades");
        topology.addStateStore(
            Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(STORE), Serdes.String(), Serdes.Long()).withLoggingEnabled(Map.of()), "features");
        topology.addSink("out", output, Serdes.String().serializer(), Serdes.String().serializer(), "features");
        return topology;
    }

    private static final class PaneProcessor implements Processor<String, byte[], String, String> {
        private final Clock clock;
        private final Trade trade = new Trade();
        private final Map<String, Panes> open = new HashMap<>();
        private ProcessorContext<String, String> context;
        private KeyValueStore<String, Long> store;

        PaneProcessor(Clock clock) {
            this.clock = clock;
        }

        @Override
        public void init(ProcessorContext<String, String> context) {
            this.context = context;
            this.store = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, byte[]> record) {
            if (!clock.tick()) {
                return;
            }
            Panes panes = open.computeIfAbsent(record.key(), name -> new Panes());
            long before = panes.pane;
            String closed = panes.add(trade.read(record.value()));
            if (closed != null) {
                store.put(record.key() + '|' + before % Panes.RING, panes.total);
                context.forward(record.withValue(closed));
            }
        }
    }
}
