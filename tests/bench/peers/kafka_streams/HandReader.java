/** Reads Avro by hand: no record object and no schema resolution, in the job's favour. */
final class HandReader implements TradeReader {
    private static final int HEADER = 10; // of Avro's single-object encoding
    private static final int LONGS_BETWEEN = 4; // receive_time, agg_id, first_trade_id, last_trade_id

    private final Trade trade = new Trade();
    private byte[] value;
    private int at;

    @Override
    public Trade read(byte[] bytes) {
        value = bytes;
        at = HEADER;
        int name = (int) varint();
        at += name;
        long time = varint();
        for (int i = 0; i < LONGS_BETWEEN; i++) {
            varint();
        }
        double price = Double.longBitsToDouble(fixed());
        double quantity = Double.longBitsToDouble(fixed());
        return trade.set(time, price, quantity, value[at] != 0);
    }

    private long varint() {
        long raw = 0;
        int shift = 0;
        byte one;
        do {
            one = value[at++];
            raw |= (long) (one & 0x7F) << shift;
            shift += 7;
        } while (one < 0);
        return (raw >>> 1) ^ -(raw & 1);
    }

    private long fixed() {
        long bits = 0;
        for (int i = 7; i >= 0; i--) {
            bits = bits << 8 | value[at + i] & 0xFF;
        }
        at += 8;
        return bits;
    }
}
