use std::io::Write as _;

use headwater::{Any, Event, Pipeline, Result, Sink, matching};
use headwater_connectors::otlp::{Otlp, OtlpConfig};
use headwater_schemas::{OrderFulfilled, PaymentCompleted};

use super::{
    super::{dot, mermaid},
    *,
};
use crate::{app::Loader, config::Layers};

/// Names as only a hostile hand chooses them: they end quotes, begin escapes, Markdown or HTML, and break lines.
const ODD: &str = "[topics.'`a\"b\\<i>#1;|']\ntype = 'payment.completed'\n\
    [sinks.copies]\nevent = 'order.fulfilled'\ntable = \"ord\\ners \\\"&amp;\"\nmode = 'insert'\n";

async fn fulfil(payment: PaymentCompleted) -> Result<OrderFulfilled> {
    let PaymentCompleted { order_id, payment_id, customer_id, amount_cents, currency, completed_at, .. } = payment;
    let (reservation, fulfilled_at) = (String::new(), completed_at);
    Ok(OrderFulfilled { order_id, payment_id, customer_id, amount_cents, currency, reservation, fulfilled_at })
}

pub(crate) async fn audit(_: Event<Any>) -> Result<()> {
    Ok(())
}

fn graph(pipeline: Pipeline, config: &str) -> Graph {
    Graph::of(&app(pipeline, config))
}

/// A program of this pipeline with this configuration.
pub(crate) fn app(pipeline: Pipeline, config: &str) -> App {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(config.as_bytes()).unwrap();
    let layers = Layers::read(Some(file.path()), []);
    let otlp = Otlp::start(OtlpConfig::from_env("", String::new()).unwrap()).unwrap();
    Loader::new(layers, Box::new(move |_| Ok(pipeline.clone())), &otlp).load(&[]).unwrap()
}

pub(crate) fn small() -> Pipeline {
    Pipeline::default().on("fulfil", fulfil).sink("orders", Sink::of::<OrderFulfilled>("orders").key("order_id"))
}

/// Red when an edge is left out or turned round, a sink has retry topics, or the prefix is not the group's.
#[test]
fn a_small_pipeline_is_drawn_whole() {
    let text = mermaid::draw(&graph(small(), "prefix = 'shop.'\n[defaults]\nretry = ['1s', '1m']"));
    let expected = r#"flowchart LR
  n0(["events.order"])
  n1(["events.payment"])
  n8[("orders")]
  n10[("headwater.dead_letters")]
  subgraph g0["shop.fulfil"]
    n2["processor"]
    n3([".retry.1s<br/>.retry.1m<br/>.redrive"])
    n4([".dlq"])
  end
  subgraph g1["shop.orders"]
    n5["sink"]
    n6([".redrive"])
    n7([".dlq"])
  end
  subgraph g2["shop.dead-letters"]
    n9["sink"]
  end
  n1 -->|"payment.completed"| n2
  n2 <-.-> n3
  n2 -.-> n4
  n2 -->|"order.fulfilled"| n0
  n0 -->|"order.fulfilled"| n5
  n5 <-.-> n6
  n5 -.-> n7
  n5 --> n8
  n4 -.-> n9
  n7 -.-> n9
  n9 --> n10"#;
    assert_eq!(text, expected);
}

/// Red when a pattern's known types are not drawn from their topics, or what it may match besides is left out.
#[test]
fn a_pattern_reads_what_is_known_and_what_is_to_come() {
    let pipeline = small().on("audit", matching("*", audit)).on("watch", matching("payment.#", audit));
    let text = dot::draw(&graph(pipeline, "[topics.legacy]\ntype = 'shipment.sent'"));
    let node = |name: &str| {
        let line = text.lines().find(|line| line.contains(&format!("label=\"{name}\""))).expect(name);
        line.trim().split(' ').next().unwrap().to_owned()
    };
    let group = |id: &str| {
        let after = text.split_once(&format!("label=\"{id}\"")).expect(id).1;
        after.split("[shape=box style=filled").next().unwrap().split_whitespace().last().unwrap().to_owned()
    };
    for (topic, to, label) in [
        ("events.payment", "audit", "payment.completed"),
        ("events.order", "audit", "order.fulfilled"),
        ("legacy", "audit", "shipment.sent"),
        ("events.*", "audit", "*"),
        ("events.payment", "watch", r"payment.completed\npayment.#"),
    ] {
        let edge = format!("{} -> {} [style=solid label=\"{label}\"];", node(topic), group(to));
        assert!(text.contains(&edge), "{edge} is missing in:\n{text}");
    }
}

/// Red when a character that ends a quoted text, or begins an escape, Markdown or HTML, stands for itself.
#[test]
fn odd_names_stay_within_their_quotes() {
    let graph = graph(small(), ODD);
    let text = mermaid::draw(&graph);
    assert!(text.contains(r##"(["#96;a#34;b#92;#60;i#62;#35;1#59;#124;"])"##), "{text}");
    assert!(text.contains(r##"[("ord#10;ers #34;#38;amp#59;")]"##), "{text}");
    let text = dot::draw(&graph);
    assert!(text.contains(r#"label="`a\"b\\<i>#1;|""#), "{text}");
    assert!(text.contains(r#"label="ord ers \"&amp;amp;""#), "{text}");
}
