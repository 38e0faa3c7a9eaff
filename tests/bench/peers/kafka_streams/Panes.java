import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Comparator;
import java.util.List;

/** 15 s panes of one instrument; from them CVD windows and Wilder's ATR(14) of 5 m bars. Takes trades in order of time. */
final class Panes {
    static final long GRID_MS = 15_000;
    static final int RING = 5760;
    private static final int PANES_A_BAR = 20;
    private static final int LENGTH = 14;
    private static final int HEAD = 15 * Long.BYTES;
    private static final String[] NAMES = {"5m", "15m", "30m", "1h", "4h", "24h"};
    private static final int[] WINDOWS = {20, 60, 120, 240, 960, 5760};

    long pane = -1;
    /** Lots of all closed panes. */
    long total;
    /** Taken trades. */
    long trades;

    private final long[] ring = new long[RING];
    private long first;
    private long cvd;
    private double high;
    private double low;
    private double close;
    private long bar = -1;
    private double barHigh;
    private double barLow;
    private double barClose;
    private double previous = Double.NaN;
    private int ranges;
    private double atr;
    private byte[] key;

    Panes() {}

    /** Goes on from a head and the closed panes that stores held, in any order. */
    Panes(byte[] head, List<Closed> closed) {
        ByteBuffer from = ByteBuffer.wrap(head);
        pane = from.getLong();
        total = from.getLong();
        trades = from.getLong();
        first = from.getLong();
        cvd = from.getLong();
        high = from.getDouble();
        low = from.getDouble();
        close = from.getDouble();
        bar = from.getLong();
        barHigh = from.getDouble();
        barLow = from.getDouble();
        barClose = from.getDouble();
        previous = from.getDouble();
        ranges = (int) from.getLong();
        atr = from.getDouble();
        long at = Math.max(first, pane - RING);
        for (Closed one : closed.stream().sorted(Comparator.comparingLong(Closed::pane)).toList()) {
            for (; at <= one.pane(); at++) { // not entered by one that lies longer ago
                ring[(int) (at % RING)] = at < one.pane() ? one.before() : one.total();
            }
        }
        for (; at < pane; at++) {
            ring[(int) (at % RING)] = total;
        }
    }

    /** Returns all but the ring. */
    byte[] head() {
        return ByteBuffer.allocate(HEAD).putLong(pane).putLong(total).putLong(trades).putLong(first)
            .putLong(cvd).putDouble(high).putDouble(low).putDouble(close)
            .putLong(bar).putDouble(barHigh).putDouble(barLow).putDouble(barClose)
            .putDouble(previous).putLong(ranges).putDouble(atr).array();
    }

    /** Returns the key of the head, made of the instrument's name once. */
    byte[] key(String name) {
        if (key == null) {
            key = name.getBytes(StandardCharsets.UTF_8);
        }
        return key;
    }

    static long paneOf(long time) {
        return -Math.floorDiv(-time, GRID_MS);
    }

    /** Takes a trade; returns the features of the pane that it closes as JSON, or null. */
    String add(Trade trade) {
        long of = paneOf(trade.time);
        trades++;
        String closed = null;
        if (of != pane) {
            if (pane >= 0) {
                closed = close(of);
            } else {
                first = of;
            }
            pane = of;
            cvd = 0;
            high = low = trade.price;
        }
        cvd += trade.lots;
        close = trade.price;
        high = Math.max(high, trade.price);
        low = Math.min(low, trade.price);
        return closed;
    }

    private String close(long following) {
        long number = barOf(pane);
        total += cvd;
        barHigh = number == bar ? Math.max(barHigh, high) : high;
        barLow = number == bar ? Math.min(barLow, low) : low;
        bar = number;
        barClose = close;
        boolean ended = pane % PANES_A_BAR == 0;
        if (ended) {
            endBar();
        }
        StringBuilder json = new StringBuilder(160).append("{\"pane\": ").append(pane);
        for (int w = 0; w < WINDOWS.length; w++) {
            json.append(", \"").append(NAMES[w]).append("\": ");
            if (pane - first + 1 >= WINDOWS[w]) {
                json.append((total - ring[(int) ((pane - WINDOWS[w]) % RING)]) / (double) Trade.LOTS);
            } else {
                json.append("null");
            }
        }
        json.append(", \"atr\": ");
        if (ranges >= LENGTH) {
            json.append(atr);
        } else {
            json.append("null");
        }
        for (long at = pane; at < Math.min(following, pane + RING); at++) {
            ring[(int) (at % RING)] = total;
        }
        if (!ended && barOf(following) > number) {
            endBar();
        }
        return json.append('}').toString();
    }

    private static long barOf(long pane) {
        return -Math.floorDiv(-pane, PANES_A_BAR);
    }

    private void endBar() {
        if (!Double.isNaN(previous)) {
            double range = Math.max(barHigh - barLow, Math.max(Math.abs(barHigh - previous), Math.abs(barLow - previous)));
            ranges++;
            atr = ranges <= LENGTH ? atr + range / LENGTH : (atr * (LENGTH - 1) + range) / LENGTH;
        }
        previous = barClose;
    }
}
