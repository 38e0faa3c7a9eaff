/** 15 s panes of one instrument; from them CVD windows and Wilder's ATR(14) of 5 m bars. Takes trades in order of time. */
final class Panes {
    static final long GRID_MS = 15_000;
    static final int RING = 5760;
    private static final int PANES_A_BAR = 20;
    private static final int LENGTH = 14;
    private static final String[] NAMES = {"5m", "15m", "30m", "1h", "4h", "24h"};
    private static final int[] WINDOWS = {20, 60, 120, 240, 960, 5760};

    long pane = -1;
    /** Lots of all closed panes. */
    long total;

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

    static long paneOf(long time) {
        return -Math.floorDiv(-time, GRID_MS);
    }

    /** Takes a trade; returns the features of the pane that it closes as JSON, or null. */
    String add(Trade trade) {
        long of = paneOf(trade.time);
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
