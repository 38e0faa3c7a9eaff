import java.util.Map;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/** Hand-written panes with the Processor API: the open pane on the heap, a closed one in RocksDB with its changelog and in a topic. */
final class PanesJob {
    static final String CLOSED = "panes";
    static final String FEATURES = "features";

    private PanesJob() {}

    static Topology topology(String input, String output, Clock clock) {
        return topology(input, output, () -> new PaneProcessor(clock, new HandReader()));
    }

    static Topology topology(String input, String output, ProcessorSupplier<String, byte[], String, String> processor) {
        Topology topology = new Topology();
        topology.addSource("trades", Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), input);
        topology.addProcessor(FEATURES, processor, "trades");
        // Not cached: a pane is closed once, and nobody reads it before a restart.
        topology.addStateStore(store(CLOSED), FEATURES);
        topology.addSink("out", output, Serdes.String().serializer(), Serdes.String().serializer(), FEATURES);
        return topology;
    }

    /** Returns a RocksDB with a changelog whose keys and values are the bytes that they are given as. */
    static StoreBuilder<KeyValueStore<byte[], byte[]>> store(String name) {
        return Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), Serdes.ByteArray(), Serdes.ByteArray()).withLoggingEnabled(Map.of());
    }
}
