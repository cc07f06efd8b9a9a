//! The graph in DOT, the language of Graphviz.

use std::fmt::Write as _;

use super::NetworkGraph;
use super::text::{escape_disallowed, label};

impl NetworkGraph {
    /// Writes the network in DOT, for Graphviz. Each arrow starts at the node that dialled.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text = String::from("digraph network {\n  node [shape=box];\n");
        for node in &self.nodes {
            let name = quoted(&label(&node.id, &node.name));
            let style = match (node.is_self, node.answered) {
                (true, _) => ", style=filled, fillcolor=\"#ffc9b5\"",
                (false, true) => "",
                (false, false) => ", style=dashed",
            };
            let _ = writeln!(text, "  \"{}\" [label={name}{style}];", node.id);
        }
        for edge in &self.edges {
            let _ = writeln!(text, "  \"{}\" -> \"{}\";", edge.from, edge.to);
        }
        text.push_str("}\n");
        text
    }
}

/// Quotes and escapes a text for DOT. Graphviz decodes HTML entities such as `&lt;` in a label, so `&` is
/// escaped. It copies all characters into its SVG pictures, so those that XML does not allow are escaped as
/// well.
fn quoted(text: &str) -> String {
    let text =
        escape_disallowed(text).replace('\\', "\\\\").replace('"', "\\\"").replace('&', "&amp;");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use crate::network::tests::{hostile, id, infos, network_of};

    #[test]
    fn a_hostile_name_stays_inside_its_quotes() {
        let dot = hostile().to_dot();
        assert!(dot.contains("label=\"a\\\"; b \\\\"), "{dot}");
        assert!(dot.contains("&amp;amp;") && !dot.contains(['\u{1b}', '\u{ffff}']), "{dot}");
        assert_eq!(dot.lines().count(), 6);
    }

    #[test]
    fn this_node_is_filled_and_arrows_start_at_the_node_that_dialled() {
        let dot = network_of(&infos(3, &[(1, 0), (1, 2)])[..2]).to_dot();
        let line =
            |id| dot.lines().find(|line| line.starts_with(&format!("  \"{id}\" ["))).unwrap();
        assert!(line(id(0)).contains("filled"));
        assert!(!line(id(1)).contains("style"));
        assert!(line(id(2)).contains("dashed"));
        assert!(dot.contains(&format!("\"{}\" -> \"{}\";", id(1), id(0))));
        assert_eq!(dot.matches("->").count(), 2);
    }
}
