package isthmus;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

/**
 * The Kafka Streams contender: one stream thread, a persistent store with cache and changelog, at least once. A job as JSON on
 * standard input (tests/benchmarks/job.py), the row as JSON on standard output; the fold is that of tests/benchmarks/bare.py.
 */
public final class Contender {
  private Contender() {}

  /** Runs one job; ends by itself after its last event, unless it is to serve. */
  public static void main(String[] arguments) throws Exception {
    JsonNode job = new ObjectMapper().readTree(System.in);
    Clock clock = new Clock(job.get("skip").asLong(), job.get("count").asLong(), job.get("serve").asBoolean());
    String model = job.get("model").asText();
    Path step = model.isEmpty() ? null : Path.of(model).resolveSibling("step.onnx");

    StreamsBuilder builder = new StreamsBuilder();
    builder.addStateStore(
        Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("states"), Serdes.ByteArray(), Serdes.ByteArray())
            .withCachingEnabled());
    builder.stream("web-clicks", Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .processValues(() -> new Fold(step, clock), "states")
        .filter((key, list) -> list != null)
        .to("recommendations", Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));

    KafkaStreams streams = new KafkaStreams(builder.build(), settings(job));
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
          return null;
        });
    streams.start();
    clock.done.await();
    streams.close(Duration.ofSeconds(30));
    System.out.println(clock.row);
    System.exit(0);
  }

  private static Properties settings(JsonNode job) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "streams");
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, job.get("bootstrap").asText());
    settings.put(StreamsConfig.STATE_DIR_CONFIG, job.get("folder").asText());
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
    if (job.get("serve").asBoolean()) {
      settings.put(StreamsConfig.producerPrefix("linger.ms"), "2"); // its default of 100 would be the latency
    }
    return settings;
  }

  /** Measures between two counts of events, as tests/benchmarks/job.py does. */
  static final class Clock {
    final CountDownLatch done = new CountDownLatch(1);
    private final OperatingSystemMXBean system =
        (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    private final long skip;
    private final long end;
    private final boolean serve;
    private long events;
    private long beginNs;
    private long beginCpuNs;
    String row = "";

    Clock(long skip, long count, boolean serve) {
      this.skip = skip;
      this.end = skip + count;
      this.serve = serve;
    }

    void one() {
      events++;
      if (serve) {
        return;
      }
      if (events == skip + 1) {
        beginNs = System.nanoTime();
        beginCpuNs = system.getProcessCpuTime();
      } else if (events == end) {
        double seconds = (System.nanoTime() - beginNs) / 1e9;
        double cpuUs = (system.getProcessCpuTime() - beginCpuNs) / 1e3;
        long count = end - skip - 1;
        row =
            String.format(
                Locale.ROOT,
                "{\"events_per_s\":%f,\"cpu_us_per_event\":%f,\"peak_rss_bytes\":%d,\"seconds\":%f}",
                count / seconds, cpuUs / count, peakRssBytes(), seconds);
        done.countDown();
      }
    }

    private static long peakRssBytes() {
      try {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
          if (line.startsWith("VmHWM:")) {
            return Long.parseLong(line.replaceAll("\\D", "")) * 1024;
          }
        }
      } catch (java.io.IOException error) {
        throw new java.io.UncheckedIOException(error);
      }
      throw new IllegalStateException("/proc/self/status does not tell VmHWM");
    }
  }
}
