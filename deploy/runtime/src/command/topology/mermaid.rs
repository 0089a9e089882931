//! The graph as a Mermaid flowchart, which GitHub and many editors draw.

use super::graph::{EdgeKind, Graph, Node, NodeKind};

/// The graph's text, without a line break at the end.
pub(super) fn draw(graph: &Graph) -> String {
    let mut lines = vec!["flowchart LR".to_owned()];
    for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.within.is_none()) {
        lines.push(format!("  {}", shape(at, node)));
    }
    for (within, title) in graph.boxes.iter().enumerate() {
        lines.push(format!("  subgraph g{within}[{}]", quoted([title])));
        for (at, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.within == Some(within)) {
            lines.push(format!("    {}", shape(at, node)));
        }
        lines.push("  end".to_owned());
    }
    for edge in &graph.edges {
        let arrow = match edge.way {
            EdgeKind::Events => "-->",
            EdgeKind::Waiting => "<-.->",
            EdgeKind::Letters => "-.->",
        };
        let label = if edge.lines.is_empty() { String::new() } else { format!("|{}|", quoted(&edge.lines)) };
        lines.push(format!("  n{} {arrow}{label} n{}", edge.from, edge.to));
    }
    lines.join("\n")
}

fn shape(at: usize, node: &Node) -> String {
    let name = quoted(&node.lines);
    match node.kind {
        NodeKind::Topic => format!("n{at}([{name}])"),
        NodeKind::Group => format!("n{at}[{name}]"),
        NodeKind::Store => format!("n{at}[({name})]"),
    }
}

/// A quoted text in which only letters, digits and what names are otherwise made of stand for themselves: the rest would
/// end the quotes, or be read as Markdown or HTML.
fn quoted<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> String {
    let escaped = |line: T| {
        line.as_ref().chars().fold(String::new(), |mut text, c| {
            let plain = c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ' ');
            if plain {
                text.push(c)
            } else {
                text.push_str(&format!("#{};", u32::from(c)))
            }
            text
        })
    };
    let lines: Vec<String> = lines.into_iter().map(escaped).collect();
    format!("\"{}\"", lines.join("<br/>"))
}
