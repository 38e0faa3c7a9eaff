import java.util.function.Supplier;
import org.apache.kafka.streams.Topology;

/**
 * The panes of {@link PanesJob} such that they survive a kill: what the heap holds of an instrument, its head, is in a second RocksDB with a changelog.
 *
 * <p>A head is put with every trade: what has been put is written with the commit of the offsets, and nothing else is. To put it once a commit only is not
 * sound: a punctuator may ask for a commit, but trades may be taken between what it puts and the commit. The cache makes it cheap: of all that was put since
 * the last commit, the newest head of an instrument goes to RocksDB and the changelog.
 *
 * <p>It must run with exactly-once: heads, closed panes and features are of one transaction with the offsets. At least once, a changelog may be ahead of
 * the offsets, and of the other changelog and the features, by any part of what a commit sends. To pass over trades by their ids would repair the sums, but
 * not bring back the features that were lost with the process.
 */
final class DurableJob {
    static final String HEADS = "heads";

    private DurableJob() {}

    static Topology topology(String input, String output, Clock clock, Supplier<TradeReader> reader) {
        Topology topology = PanesJob.topology(input, output, () -> new DurableProcessor(clock, reader.get()));
        return topology.addStateStore(PanesJob.store(HEADS).withCachingEnabled(), PanesJob.FEATURES);
    }
}
