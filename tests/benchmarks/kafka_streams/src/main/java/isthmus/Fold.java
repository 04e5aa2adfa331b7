package isthmus;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueStore;

/** A click joins the user's session or begins one; the list is what the network makes of the last 10 sessions. */
final class Fold extends ContextualFixedKeyProcessor<byte[], byte[], byte[]> {
  private static final long GAP_MS = 30 * 60_000;
  private static final int WINDOW = 10;
  private static final int LENGTH = 5;
  static final String[] TAGS = tags();
  static final String[] ITEMS = items();

  private final ObjectMapper json = new ObjectMapper();
  private final TypeReference<Click> type = new TypeReference<>() {};
  private final Map<String, Integer> places = new HashMap<>();
  private final int[] catalogue = catalogue();
  private final Contender.Clock clock;
  private final Network network;
  private KeyValueStore<byte[], byte[]> states;

  /** One event of the input, as Jackson reads it. */
  record Click(String event_id, String user_id, long occurred_at, List<String> tags) {}

  Fold(Path step, Contender.Clock clock) {
    this.clock = clock;
    this.network = step == null ? null : new Network(step, TAGS.length, ITEMS.length);
    for (int place = 0; place < TAGS.length; place++) {
      places.put(TAGS[place], place);
    }
  }

  @Override
  public void init(FixedKeyProcessorContext<byte[], byte[]> context) {
    super.init(context);
    states = context.getStateStore("states");
  }

  @Override
  public void process(FixedKeyRecord<byte[], byte[]> record) {
    try {
      Click click = json.readValue(record.value(), type);
      State state = State.read(states.get(record.key()));
      fold(state, click);
      float[] scores = network == null ? new float[ITEMS.length] : network.step(last(state), state.prefix, true);
      int[] best = network == null ? catalogue : best(scores);
      boolean changed = !Arrays.equals(best, state.sent);
      state.sent = best;
      states.put(record.key(), state.written());
      if (changed) {
        context().forward(record.withValue(list(click, best, scores, record.timestamp())));
      }
      clock.one();
    } catch (java.io.IOException error) {
      throw new java.io.UncheckedIOException(error);
    }
  }

  private void fold(State state, Click click) {
    List<Integer> session;
    if (!state.sessions.isEmpty() && click.occurred_at() < state.endedAt + GAP_MS) {
      session = last(state);
    } else {
      begin(state);
      session = new ArrayList<>();
      state.sessions.add(session);
    }
    for (String tag : click.tags()) {
      Integer place = places.get(tag);
      if (!session.contains(place)) {
        session.add(place);
      }
    }
    state.endedAt = click.occurred_at();
  }

  /** The former session goes into the prefix; where the window slides all of it is encoded anew. */
  private void begin(State state) {
    if (state.sessions.isEmpty()) {
      return;
    }
    if (state.sessions.size() < WINDOW) {
      if (network != null) {
        state.prefix = network.step(last(state), state.prefix, false);
      }
      return;
    }
    state.sessions.remove(0);
    if (network != null) {
      state.prefix = new float[Network.HIDDEN];
      for (List<Integer> session : state.sessions) {
        state.prefix = network.step(session, state.prefix, false);
      }
    }
  }

  private static List<Integer> last(State state) {
    return state.sessions.get(state.sessions.size() - 1);
  }

  /** Places of the best scores, ties in the items' order. */
  private static int[] best(float[] scores) {
    int[] best = new int[LENGTH];
    boolean[] taken = new boolean[scores.length];
    for (int rank = 0; rank < LENGTH; rank++) {
      int found = -1;
      for (int place = 0; place < scores.length; place++) {
        if (!taken[place] && (found < 0 || scores[place] > scores[found])) {
          found = place;
        }
      }
      taken[found] = true;
      best[rank] = found;
    }
    return best;
  }

  private byte[] list(Click click, int[] best, float[] scores, long atMs) throws java.io.IOException {
    List<Item> ranked = new ArrayList<>();
    for (int rank = 0; rank < best.length; rank++) {
      ranked.add(new Item(ITEMS[best[rank]], rank + 1, Math.round(scores[best[rank]] * 1e4) / 1e4));
    }
    Cause cause = new Cause(click.event_id(), "click", click.occurred_at());
    return json.writeValueAsBytes(new Output(click.user_id(), atMs, cause, new Model("latent_feature", "1"), ranked));
  }

  record Item(String item, int rank, double score) {}

  record Cause(String event_id, String type, long occurred_at) {}

  record Model(String name, String version) {}

  record Output(String user_id, long occurred_at, Cause caused_by, Model model, List<Item> items) {}

  private static String[] tags() {
    List<String> tags = new ArrayList<>();
    for (String section : new String[] {"view", "compare", "price", "claim", "faq"}) {
      for (int thing = 0; thing < 30; thing++) {
        tags.add(section + "-" + thing);
      }
    }
    return tags.toArray(new String[0]);
  }

  private static String[] items() {
    String[] items = new String[24];
    for (int place = 0; place < items.length; place++) {
      items[place] = String.valueOf(place + 1);
    }
    return items;
  }

  private static int[] catalogue() {
    String[] sorted = ITEMS.clone();
    Arrays.sort(sorted);
    int[] first = new int[LENGTH];
    for (int place = 0; place < LENGTH; place++) {
      first[place] = Integer.parseInt(sorted[place]) - 1;
    }
    return first;
  }
}
