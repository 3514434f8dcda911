import com.lmax.disruptor.BlockingWaitStrategy;
import com.lmax.disruptor.EventHandler;
import com.lmax.disruptor.RingBuffer;
import com.lmax.disruptor.WaitStrategy;
import com.lmax.disruptor.YieldingWaitStrategy;
import com.lmax.disruptor.dsl.Disruptor;
import com.lmax.disruptor.dsl.ProducerType;
import com.lmax.disruptor.util.DaemonThreadFactory;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;

/**
 * LMAX Disruptor: `Peer yielding|blocking`. Answers the lines that round.h describes. It has no way
 * to lose, so lossy rounds are none of its modes; latency waits for room as all else.
 */
public final class Peer {
    private static final int BUFFER_COUNT = 1024;
    private static final long MULTIPLIER = 0x9e3779b97f4a7c15L;

    static final class Event {
        long number;
        long stamp;
        long w2;
        long w3;
        long w4;
        long w5;
        long w6;
        long w7;
    }

    static final class Reader implements EventHandler<Event> {
        final long[] last = new long[16];
        final boolean timed;
        final int[] samples;
        int sampleCount;
        long delivered;
        long wrong;

        Reader(boolean timed) {
            this.timed = timed;
            samples = new int[timed ? 1 << 20 : 0];
            for (int i = 0; i < last.length; i++) {
                last[i] = (long) i << 48;
            }
        }

        @Override
        public void onEvent(Event event, long sequence, boolean endOfBatch) {
            long number = event.number;
            int publisher = (int) (number >>> 48) % last.length;
            long base = number * MULTIPLIER;
            long bad = event.w2 ^ base + 2;
            bad |= event.w3 ^ base + 3;
            bad |= event.w4 ^ base + 4;
            bad |= event.w5 ^ base + 5;
            bad |= event.w6 ^ base + 6;
            bad |= event.w7 ^ base + 7;
            bad |= number ^ last[publisher] + 1;
            if (!timed) {
                bad |= event.stamp ^ number;
            } else if (sampleCount < samples.length) {
                samples[sampleCount++] = (int) (System.nanoTime() - event.stamp);
            }
            last[publisher] = number;
            delivered++;
            if (bad != 0) {
                wrong++;
            }
        }
    }

    static volatile boolean stop;

    static final class Publisher extends Thread {
        final RingBuffer<Event> ring;
        final CountDownLatch start;
        final long index;
        final boolean timed;
        final double rate;
        long published;

        Publisher(RingBuffer<Event> ring, CountDownLatch start, long index, boolean timed, double rate) {
            this.ring = ring;
            this.start = start;
            this.index = index;
            this.timed = timed;
            this.rate = rate;
        }

        private void next() {
            long number = index << 48 | ++published;
            long base = number * MULTIPLIER;
            long stamp = timed ? System.nanoTime() : number;
            long sequence = ring.next();
            Event event = ring.get(sequence);
            event.number = number;
            event.stamp = stamp;
            event.w2 = base + 2;
            event.w3 = base + 3;
            event.w4 = base + 4;
            event.w5 = base + 5;
            event.w6 = base + 6;
            event.w7 = base + 7;
            ring.publish(sequence);
        }

        @Override
        public void run() {
            try {
                start.await();
            } catch (InterruptedException interrupted) {
                return;
            }
            double due = System.nanoTime();
            while (!stop) {
                next();
                due += rate > 0 ? 1e9 / rate : 0;
                while (rate > 0 && System.nanoTime() < due) {
                    Thread.onSpinWait();
                }
            }
        }
    }

    private static WaitStrategy waiting(String name) {
        return name.equals("yielding") ? new YieldingWaitStrategy() : new BlockingWaitStrategy();
    }

    private static String answer(Publisher[] publishers, Reader[] readers, double seconds) {
        long published = 0;
        long delivered = 0;
        long wrong = 0;
        double p50 = 0;
        for (Publisher publisher : publishers) {
            published += publisher.published;
        }
        for (Reader reader : readers) {
            delivered += reader.delivered;
            wrong += reader.wrong;
            if (reader.sampleCount > 0) {
                Arrays.sort(reader.samples, 0, reader.sampleCount);
                p50 += (double) reader.samples[reader.sampleCount / 2] / readers.length;
            }
        }
        if (wrong > 0 || delivered != published * readers.length) {
            return "error events were lost, torn or out of order";
        }
        return String.format(Locale.ROOT,
                "published=%d delivered=%d seconds=%.6f p50_ns=%.0f", published, delivered, seconds,
                p50);
    }

    private static String run(String waiting, String[] words) throws InterruptedException {
        boolean timed = words[0].equals("latency");
        Publisher[] publishers = new Publisher[Integer.parseInt(words[1])];
        Reader[] readers = new Reader[Integer.parseInt(words[2])];
        Disruptor<Event> disruptor = new Disruptor<>(Event::new, BUFFER_COUNT,
                DaemonThreadFactory.INSTANCE,
                publishers.length > 1 ? ProducerType.MULTI : ProducerType.SINGLE, waiting(waiting));
        for (int i = 0; i < readers.length; i++) {
            readers[i] = new Reader(timed);
        }
        disruptor.handleEventsWith(readers);
        CountDownLatch start = new CountDownLatch(1);
        RingBuffer<Event> ring = disruptor.start();
        stop = false;
        for (int i = 0; i < publishers.length; i++) {
            publishers[i] = new Publisher(ring, start, i, timed, Double.parseDouble(words[4]));
            publishers[i].start();
        }
        long before = System.nanoTime();
        start.countDown();
        Thread.sleep((long) (Double.parseDouble(words[3]) * 1000));
        stop = true;
        for (Publisher publisher : publishers) {
            publisher.join();
        }
        while (ring.getMinimumGatingSequence() < ring.getCursor()) {
            Thread.yield();
        }
        double seconds = (System.nanoTime() - before) * 1e-9;
        disruptor.shutdown();
        return answer(publishers, readers, seconds);
    }

    public static void main(String[] arguments) throws IOException, InterruptedException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            System.out.println(run(arguments[0], line.split(" ")));
        }
    }
}
