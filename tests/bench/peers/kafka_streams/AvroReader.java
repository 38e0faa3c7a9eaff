import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageDecoder;

/** Reads Avro by Avro's own library: its decoder of the single-object encoding, which finds the schema by the fingerprint in the value. */
final class AvroReader implements TradeReader {
    private final Trade trade = new Trade();
    private final BinaryMessageDecoder<GenericRecord> decoder;
    // Fields are asked for by their places, which is cheaper than by name.
    private final int time;
    private final int price;
    private final int quantity;
    private final int buyerIsMaker;
    private GenericRecord record; // the same again and again, which Avro's documentation advises for speed

    /** Reads values that were written with a schema, given as JSON. */
    AvroReader(String json) {
        Schema schema = new Schema.Parser().parse(json);
        decoder = new BinaryMessageDecoder<>(GenericData.get(), schema);
        time = schema.getField("event_time").pos();
        price = schema.getField("price").pos();
        quantity = schema.getField("quantity").pos();
        buyerIsMaker = schema.getField("buyer_is_maker").pos();
    }

    @Override
    public Trade read(byte[] value) {
        try {
            record = decoder.decode(value, record);
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return trade.set((long) record.get(time), (double) record.get(price), (double) record.get(quantity), (boolean) record.get(buyerIsMaker));
    }
}
