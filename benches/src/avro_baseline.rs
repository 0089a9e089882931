//! The bare apache-avro calls that the codec is measured against.

use apache_avro::{Schema, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use headwater::Payload;
use headwater_schemas::{PaymentCompleted, ReceiptRequested};

/// A reader of payments and a writer of receipts, each made once.
pub struct AvroBaseline {
    reader: GenericDatumReader<'static>,
    writer: GenericDatumWriter<'static>,
}

impl Default for AvroBaseline {
    fn default() -> Self {
        let schema = |text| &*Box::leak(Box::new(Schema::parse_str(text).expect("valid")));
        Self {
            reader: GenericDatumReader::builder(schema(PaymentCompleted::SCHEMA)).build().expect("a reader"),
            writer: GenericDatumWriter::builder(schema(ReceiptRequested::SCHEMA)).build().expect("a writer"),
        }
    }
}

impl AvroBaseline {
    /// Decodes a payment, without the wire format's prefix.
    pub fn decode(&self, mut datum: &[u8]) -> PaymentCompleted {
        self.reader.read_deser(&mut datum).expect("readable")
    }

    /// Encodes a receipt in the wire format.
    pub fn encode(&self, receipt: &ReceiptRequested) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0, 0, 0, 0, 1]);
        self.writer.write_ser(&mut bytes, receipt).expect("it fits");
        bytes
    }

    /// What `send-receipt` does, by hand.
    pub fn handle(&self, datum: &[u8]) -> Vec<u8> {
        let PaymentCompleted { payment_id, order_id, email, .. } = self.decode(datum);
        self.encode(&ReceiptRequested { payment_id, order_id, email: email.expect("an e-mail address") })
    }
}
