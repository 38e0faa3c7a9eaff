/** Reads Avro values of agg_trades, always into the same object. */
interface TradeReader {
    Trade read(byte[] value);
}
