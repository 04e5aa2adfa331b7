package isthmus;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/** One step of the network by ONNX Runtime, one row; its inputs lie in direct buffers that are made once. */
final class Network {
  static final int HIDDEN = 256;
  private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
  private final OrtSession session;
  private final FloatBuffer tags;
  private final FloatBuffer h;
  private final Map<String, OnnxTensor> inputs;
  private final int items;

  Network(Path step, int tagCount, int items) {
    this.items = items;
    try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
      options.setIntraOpNumThreads(1);
      options.setInterOpNumThreads(1);
      session = environment.createSession(step.toString(), options);
      tags = direct(tagCount);
      h = direct(HIDDEN);
      inputs =
          Map.of(
              "tags", OnnxTensor.createTensor(environment, tags, new long[] {1, tagCount}),
              "h", OnnxTensor.createTensor(environment, h, new long[] {1, HIDDEN}));
    } catch (OrtException error) {
      throw new IllegalStateException(error);
    }
  }

  private static FloatBuffer direct(int size) {
    return ByteBuffer.allocateDirect(4 * size).order(ByteOrder.nativeOrder()).asFloatBuffer();
  }

  /** The scores after one more session, or the new representation. */
  float[] step(List<Integer> places, float[] representation, boolean scores) {
    places.forEach(place -> tags.put(place, 1f));
    h.put(0, representation);
    try (OrtSession.Result result = session.run(inputs)) {
      float[] values = new float[scores ? items : HIDDEN];
      ((OnnxTensor) result.get(scores ? 1 : 0)).getFloatBuffer().get(values);
      return values;
    } catch (OrtException error) {
      throw new IllegalStateException(error);
    } finally {
      places.forEach(place -> tags.put(place, 0f));
    }
  }
}
