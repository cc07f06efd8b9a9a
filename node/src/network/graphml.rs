//! The graph in GraphML, which most graph programs can read.

use std::fmt::Write as _;

use super::NetworkGraph;
use super::text::escape_xml;

const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
  <key id="network" for="graph" attr.name="network" attr.type="string"/>
  <key id="name" for="node" attr.name="name" attr.type="string"/>
  <key id="address" for="node" attr.name="address" attr.type="string"/>
  <key id="answered" for="node" attr.name="answered" attr.type="boolean"/>
  <key id="is_self" for="node" attr.name="is_self" attr.type="boolean"/>
  <graph edgedefault="directed">
"#;

impl NetworkGraph {
    /// Writes the network as GraphML. Identities are the ids of nodes. Each edge starts at the node that
    /// dialled.
    #[must_use]
    pub fn to_graphml(&self) -> String {
        let mut text = String::from(HEAD);
        let _ = writeln!(text, "    <data key=\"network\">{}</data>", escape_xml(&self.name));
        for node in &self.nodes {
            let _ = write!(text, "    <node id=\"{}\">", node.id);
            let _ = write!(text, "<data key=\"name\">{}</data>", escape_xml(&node.name));
            if let Some(address) = &node.address {
                let _ = write!(text, "<data key=\"address\">{}</data>", escape_xml(address));
            }
            let _ = write!(text, "<data key=\"answered\">{}</data>", node.answered);
            let _ = writeln!(text, "<data key=\"is_self\">{}</data></node>", node.is_self);
        }
        for edge in &self.edges {
            let _ = writeln!(text, "    <edge source=\"{}\" target=\"{}\"/>", edge.from, edge.to);
        }
        text.push_str("  </graph>\n</graphml>\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use crate::network::tests::{hostile, id, infos, network_of};

    #[test]
    fn a_hostile_name_stays_inside_its_element() {
        let graphml = hostile().to_graphml();
        let name = "<data key=\"name\">a&quot;; b \\\\n\\u{1b}[31m&lt;x y='&amp;amp;'&gt;";
        assert!(graphml.contains(name), "{graphml}");
        assert!(graphml.contains("<data key=\"network\">&lt;net\\u{0}&gt;</data>"), "{graphml}");
        assert!(!graphml.contains(['\u{1b}', '\u{ffff}']));
    }

    #[test]
    fn this_node_is_marked_and_edges_start_at_the_node_that_dialled() {
        let graphml = network_of(&infos(3, &[(1, 0), (1, 2)])[..2]).to_graphml();
        let line = |id| graphml.lines().find(|line| line.contains(&format!("node id=\"{id}\"")));
        let (first, last) = (line(id(0)).unwrap(), line(id(2)).unwrap());
        assert!(
            first.contains("\"is_self\">true") && first.contains("\"answered\">true"),
            "{first}"
        );
        assert!(first.contains("\"address\">127.0.0.1:1000<"), "{first}");
        assert!(
            last.contains("\"is_self\">false") && last.contains("\"answered\">false"),
            "{last}"
        );
        let edge = format!("<edge source=\"{}\" target=\"{}\"/>", id(1), id(0));
        assert!(graphml.contains(&edge), "{graphml}");
        assert_eq!(graphml.matches("<edge").count(), 2);
    }
}
