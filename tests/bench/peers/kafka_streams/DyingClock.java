/** A clock that ends its process as a kill -9 does: some time after a commit, behind trades whose features are in the topic but not committed. */
final class DyingClock extends Clock {
    private final long last;
    private long ticks;

    DyingClock(long wanted, long last) {
        super(wanted);
        this.last = last;
    }

    @Override
    boolean tick() {
        ticks++;
        if (ticks == last / 2) {
            pause(2 * Job.COMMIT_MS); // The commit is overdue then, and comes within a few trades.
        } else if (ticks > last) {
            pause(Job.COMMIT_MS / 2); // Longer than the producer lingers.
            Runtime.getRuntime().halt(9);
        }
        return super.tick();
    }

    private static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }
}
