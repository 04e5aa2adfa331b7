package isthmus;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;

/** The last 10 sessions as places of tags, the representation of all but the last, the last list sent; packed by hand. */
final class State {
  long endedAt;
  List<List<Integer>> sessions = new ArrayList<>();
  float[] prefix = new float[Network.HIDDEN];
  int[] sent = new int[0];

  static State read(byte[] stored) {
    State state = new State();
    if (stored == null) {
      return state;
    }
    ByteBuffer buffer = ByteBuffer.wrap(stored);
    state.endedAt = buffer.getLong();
    buffer.asFloatBuffer().get(state.prefix);
    buffer.position(buffer.position() + 4 * Network.HIDDEN);
    state.sent = new int[buffer.get()];
    for (int rank = 0; rank < state.sent.length; rank++) {
      state.sent[rank] = buffer.get();
    }
    while (buffer.hasRemaining()) {
      List<Integer> session = new ArrayList<>();
      for (int left = buffer.get() & 0xff; left > 0; left--) {
        session.add(buffer.get() & 0xff);
      }
      state.sessions.add(session);
    }
    return state;
  }

  byte[] written() {
    int size = 8 + 4 * Network.HIDDEN + 1 + sent.length;
    for (List<Integer> session : sessions) {
      size += 1 + session.size();
    }
    ByteBuffer buffer = ByteBuffer.allocate(size);
    buffer.putLong(endedAt);
    buffer.asFloatBuffer().put(prefix);
    buffer.position(buffer.position() + 4 * Network.HIDDEN);
    buffer.put((byte) sent.length);
    for (int place : sent) {
      buffer.put((byte) place);
    }
    for (List<Integer> session : sessions) {
      buffer.put((byte) session.size());
      session.forEach(place -> buffer.put(place.byteValue()));
    }
    return buffer.array();
  }
}
