import java.nio.ByteBuffer;

/**
 * A closed pane as the store holds it: its number, and the lots of all panes before it and with it. Both sums, because a pane without trades has no
 * record: the total of such a gap is that before the next record, also when the slot of the one behind it has been taken since.
 */
record Closed(long pane, long before, long total) {
    static Closed of(byte[] value) {
        ByteBuffer from = ByteBuffer.wrap(value);
        return new Closed(from.getLong(), from.getLong(), from.getLong());
    }

    byte[] bytes() {
        return ByteBuffer.allocate(3 * Long.BYTES).putLong(pane).putLong(before).putLong(total).array();
    }
}
