import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;

/** A {@link PaneProcessor} that writes the head of an instrument through to a store with every trade, and goes on from the stores. */
final class DurableProcessor extends PaneProcessor {
    private KeyValueStore<byte[], byte[]> heads;

    DurableProcessor(Clock clock, TradeReader reader) {
        super(clock, reader);
    }

    @Override
    public void init(ProcessorContext<String, String> context) {
        super.init(context);
        heads = context.getStateStore(DurableJob.HEADS);
        Map<String, List<Closed>> rings = new HashMap<>();
        try (KeyValueIterator<byte[], byte[]> all = closed.all()) {
            while (all.hasNext()) {
                KeyValue<byte[], byte[]> entry = all.next();
                String slot = text(entry.key);
                rings.computeIfAbsent(slot.substring(0, slot.lastIndexOf('|')), name -> new ArrayList<>()).add(Closed.of(entry.value));
            }
        }
        try (KeyValueIterator<byte[], byte[]> all = heads.all()) {
            while (all.hasNext()) {
                KeyValue<byte[], byte[]> entry = all.next();
                String name = text(entry.key);
                Panes panes = new Panes(entry.value, rings.getOrDefault(name, List.of()));
                open.put(name, panes);
                clock.restored(panes.trades);
            }
        }
    }

    @Override
    public void process(Record<String, byte[]> record) {
        if (clock.tick()) {
            Panes panes = take(record);
            heads.put(panes.key(record.key()), panes.head()); // the cache keeps both arrays: a head is a new one each time
        }
    }

    private static String text(byte[] key) {
        return new String(key, StandardCharsets.UTF_8);
    }
}
