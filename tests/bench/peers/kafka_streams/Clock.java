import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.util.concurrent.CountDownLatch;

/** Counts trades; the clock runs over the second half of those that are wanted. One stream thread uses it. */
class Clock {
    private static final OperatingSystemMXBean SYSTEM = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    private final long wanted;
    private final CountDownLatch done = new CountDownLatch(1);
    private long seen;
    private long restored;
    private long began;
    private long began_cpu;
    private long ended;
    private long ended_cpu;

    Clock(long wanted) {
        this.wanted = wanted;
    }

    /** Counts a trade; returns whether it is one of those that are wanted. */
    boolean tick() {
        seen++;
        if (seen == wanted / 2) {
            began = System.nanoTime();
            began_cpu = SYSTEM.getProcessCpuTime();
        } else if (seen == wanted) {
            ended = System.nanoTime();
            ended_cpu = SYSTEM.getProcessCpuTime();
            done.countDown();
        }
        return seen <= wanted;
    }

    /** Counts trades that an earlier process took, whose state has been found: the end is right then, the times say nothing. */
    void restored(long trades) {
        restored += trades;
        seen += trades;
    }

    void await() throws InterruptedException {
        done.await();
    }

    void report() {
        System.out.printf(
            java.util.Locale.ROOT, "{\"trades\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"restored\": %d}%n",
            wanted - wanted / 2, (ended - began) / 1e9, (ended_cpu - began_cpu) / 1e9, restored);
    }
}
