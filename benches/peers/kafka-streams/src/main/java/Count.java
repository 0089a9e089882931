import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsOptions;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.WriteBufferManager;

/**
 * Counts the records of each key, exactly once, until the offsets of as many records as were asked for are committed; then
 * says on one line what that cost. Keys and values are bytes: nothing is decoded, which is less than the engine does.
 */
public final class Count {
    /** Between two looks at the committed offsets. */
    private static final long LOOK_MS = 20;

    private static final Meter METER = new Meter();

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 7) {
            System.err.println("arguments: bootstrap input output application-id state-dir records cache-bytes");
            System.exit(2);
        }
        endWithParent();
        String bootstrap = arguments[0];
        String application = arguments[3];
        long records = Long.parseLong(arguments[5]);
        long cache = Long.parseLong(arguments[6]);
        StreamsBuilder builder = topology(arguments[1], arguments[2], cache);
        CountDownLatch failed = new CountDownLatch(1);
        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings(bootstrap, application, arguments[4], cache))) {
            streams.setUncaughtExceptionHandler(error -> {
                error.printStackTrace();
                failed.countDown();
                return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
            });
            streams.start();
            try (Admin admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap))) {
                while (committed(admin, application) < records) {
                    if (failed.await(LOOK_MS, TimeUnit.MILLISECONDS)) {
                        System.exit(1);
                    }
                }
            }
            // The last line of the output is what the bench reads.
            System.out.println(METER.stop(records));
            streams.close(Duration.ofSeconds(30));
        }
    }

    /** Who measures us holds the other end of the input, and is gone when that ends. */
    private static void endWithParent() {
        Thread watch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Nobody says anything.
                }
            } catch (java.io.IOException gone) {
                // As good as an end.
            }
            Runtime.getRuntime().halt(1);
        });
        watch.setDaemon(true);
        watch.start();
    }

    private static StreamsBuilder topology(String input, String output, long cache) {
        Materialized<byte[], Long, KeyValueStore<Bytes, byte[]>> counts = Materialized.as("counts");
        counts = counts.withKeySerde(Serdes.ByteArray()).withValueSerde(Serdes.Long());
        // Without the record cache every record gives an event, as with the engine; with it a key gives one a commit.
        counts = cache > 0 ? counts.withCachingEnabled() : counts.withCachingDisabled();
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(input, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .peek((key, value) -> METER.begin())
                .groupByKey(Grouped.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .count(counts)
                .toStream()
                .to(output, Produced.with(Serdes.ByteArray(), Serdes.Long()));
        return builder;
    }

    private static Properties settings(String bootstrap, String application, String state, long cache) {
        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, state);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        // As many as the machine has cores, as the documentation advises.
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        // The broker is alone.
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, cache);
        settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, BoundedMemory.class);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        // The default of 1,000 is a poll and its bookkeeping every few milliseconds at this rate.
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5_000);
        settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 5_000);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        // 16 KiB by default, a request for every few dozen records; what is open waits for the commit's flush, at most.
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 256 << 10);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.BUFFER_MEMORY_CONFIG), 64L << 20);
        return settings;
    }

    /** How many records of the input are covered by what is committed; nothing but records is on it. */
    private static long committed(Admin admin, String group) throws Exception {
        var groups = Map.of(group, new ListConsumerGroupOffsetsSpec());
        // Not what a transaction that is still open would commit.
        var options = new ListConsumerGroupOffsetsOptions().requireStable(true);
        try {
            var offsets = admin.listConsumerGroupOffsets(groups, options).partitionsToOffsetAndMetadata().get();
            return offsets.values().stream().filter(at -> at != null).mapToLong(at -> at.offset()).sum();
        } catch (java.util.concurrent.ExecutionException notYet) {
            if (notYet.getCause() instanceof org.apache.kafka.common.errors.RetriableException
                    || notYet.getCause() instanceof org.apache.kafka.common.errors.GroupIdNotFoundException) {
                return 0;
            }
            throw notYet;
        }
    }

    /**
     * What the documentation recommends under "Memory Management": one bounded block cache for all stores, which memtables,
     * indexes and filters are counted in. Each of six partitions would have 50 MB of blocks and 48 MB of memtables otherwise.
     */
    public static final class BoundedMemory implements RocksDBConfigSetter {
        private static final long ALL = 128L << 20;
        private static final long MEMTABLES = 64L << 20;
        private static final double INDEXES = 0.1;
        private static final LRUCache BLOCKS = new LRUCache(ALL, -1, false, INDEXES);
        private static final WriteBufferManager WRITES = new WriteBufferManager(MEMTABLES, BLOCKS);

        @Override
        public void setConfig(String store, Options options, Map<String, Object> configs) {
            BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
            table.setBlockCache(BLOCKS);
            table.setCacheIndexAndFilterBlocks(true);
            options.setWriteBufferManager(WRITES);
            table.setCacheIndexAndFilterBlocksWithHighPriority(true);
            table.setPinTopLevelIndexAndFilter(true);
            options.setTableFormatConfig(table);
        }

        @Override
        public void close(String store, Options options) {
            // Cache and manager are everybody's.
        }
    }

    /** Time and processor time from the first record on, as the bench's own meter counts them. */
    private static final class Meter {
        private volatile boolean began;
        private long time;
        private long processor;

        void begin() {
            if (!began) {
                beginOnce();
            }
        }

        private synchronized void beginOnce() {
            if (!began) {
                time = System.nanoTime();
                processor = processorTime();
                began = true;
            }
        }

        synchronized String stop(long records) throws Exception {
            double seconds = (System.nanoTime() - time) / 1e9;
            double cpuSeconds = (processorTime() - processor) / 1e9;
            return String.format(java.util.Locale.ROOT,
                    "{\"records\":%d,\"seconds\":%f,\"cpu_seconds\":%f,\"peak_bytes\":%d}",
                    records, seconds, cpuSeconds, peakBytes());
        }

        private static long processorTime() {
            var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
            return system.getProcessCpuTime();
        }

        private static long peakBytes() throws Exception {
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith("VmHWM:")) {
                    return Long.parseLong(line.replaceAll("\\D", "")) * 1024;
                }
            }
            throw new IllegalStateException("no VmHWM in /proc/self/status: is this Linux?");
        }
    }
}
