import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler;

/**
 * Runs a topology until it has seen the trades that are wanted: {@code java Job KIND bootstrap input output trades group folder schema [last]}. With
 * {@code last} it dies behind so many trades.
 */
public final class Job {
    static final int COMMIT_MS = 1000;

    private Job() {}

    public static void main(String[] args) throws Exception {
        String kind = args[0];
        long wanted = Long.parseLong(args[4]);
        Clock clock = args.length > 8 ? new DyingClock(wanted, Long.parseLong(args[8])) : new Clock(wanted);
        Properties settings = settings(args[1], args[5], args[6]);
        Topology topology = switch (kind) {
            case "hopping" -> HoppingJob.topology(args[2], args[3], clock, new AvroReader(args[7]));
            case "panes" -> PanesJob.topology(args[2], args[3], clock);
            case "library" -> DurableJob.topology(args[2], args[3], clock, () -> new AvroReader(args[7]));
            case "durable" -> DurableJob.topology(args[2], args[3], clock, HandReader::new);
            default -> throw new IllegalArgumentException(kind);
        };
        if (kind.equals("library") || kind.equals("durable")) {
            settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        }
        try (KafkaStreams streams = new KafkaStreams(topology, settings)) {
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
                return StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
            });
            streams.start();
            clock.await();
            streams.close(Duration.ofSeconds(30));
        }
        clock.report();
    }

    private static Properties settings(String bootstrap, String group, String folder) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, group);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, folder);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, COMMIT_MS);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // The one that is started after a kill takes the place of the dead at once, not when its session has ended.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), "job");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG), 4 << 20);
        return settings;
    }
}
