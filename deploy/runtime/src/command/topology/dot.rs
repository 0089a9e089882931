//! The graph in the language of Graphviz.

use super::graph::{EdgeKind, Graph, Node, NodeKind};

/// The graph's text, without a line break at the end.
pub(super) fn draw(graph: &Graph) -> String {
    let mut lines = vec![
        "digraph topology {".to_owned(),
        "  rankdir=LR; node [fontname=\"sans-serif\"]; edge [fontname=\"sans-serif\" fontsize=10];".to_owned(),
    ];
    for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.within.is_none()) {
        lines.push(format!("  {}", shape(at, node)));
    }
    for (within, title) in graph.boxes.iter().enumerate() {
        lines.push(format!("  subgraph cluster{within} {{"));
        lines.push(format!("    label={}; fontname=\"sans-serif\"; style=rounded; color=gray;", quoted([title])));
        for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.within == Some(within)) {
            lines.push(format!("    {}", shape(at, node)));
        }
        lines.push("  }".to_owned());
    }
    for edge in &graph.edges {
        let style = match edge.way {
            EdgeKind::Events => "style=solid",
            EdgeKind::Waiting => "style=dashed dir=both",
            EdgeKind::Letters => "style=dashed",
        };
        lines.push(format!("  n{} -> n{} [{style} label={}];", edge.from, edge.to, quoted(&edge.lines)));
    }
    lines.push("}".to_owned());
    lines.join("\n")
}

fn shape(at: usize, node: &Node) -> String {
    let shape = match node.kind {
        NodeKind::Topic => "shape=box style=rounded",
        NodeKind::Group => "shape=box style=filled fillcolor=lightblue",
        NodeKind::Store => "shape=cylinder",
    };
    format!("n{at} [{shape} label={}];", quoted(&node.lines))
}

/// A quoted text. A backslash begins an escape in it, `&` an HTML entity; a line break would be kept as it is.
fn quoted<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> String {
    let escaped = |line: T| {
        line.as_ref().chars().fold(String::new(), |mut text, c| {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '&' => text.push_str("&amp;"),
                c if c.is_control() => text.push(' '),
                c => text.push(c),
            }
            text
        })
    };
    let lines: Vec<String> = lines.into_iter().map(escaped).collect();
    format!("\"{}\"", lines.join("\\n"))
}
