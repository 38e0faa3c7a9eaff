/** What the jobs need of a trade. */
final class Trade {
    static final long LOTS = 1000;

    long time;
    double price;
    /** Lots, negative where the taker sold. */
    long lots;

    Trade set(long time, double price, double quantity, boolean takerSold) {
        this.time = time;
        this.price = price;
        lots = Math.round(quantity * LOTS);
        if (takerSold) {
            lots = -lots;
        }
        return this;
    }
}
