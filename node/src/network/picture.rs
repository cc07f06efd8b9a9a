//! The layout of the whole picture: the positions of all nodes and names, in pixels.

use std::collections::BTreeMap;

use super::labels::{self, TextLabel};
use super::layout::lay_out;
use super::shapes::{Point, Rect};
use super::text::escape_disallowed;
use super::{NetworkGraph, NetworkNode, NodePair};

/// Maximum number of nodes in a picture that shows names. With more nodes the names would be illegible.
const MAX_NODES_WITH_NAMES: usize = 150;

/// Maximum number of letters that are shown of a name. A name has at most 64 bytes.
const MAX_LETTERS: usize = 24;

/// Distance between two parts of the network, in pixels.
const GAP: f64 = 40.0;

/// The positions of everything in the picture.
#[derive(Debug)]
pub(super) struct Picture {
    /// The position of each node, in the order of the graph.
    pub(super) positions: Vec<Point>,
    pub(super) links: Vec<NodePair>,
    /// The radius of a node's circle.
    pub(super) radius: f64,
    /// The radius of this node's circle. It is larger, so that this node stands out among many.
    pub(super) self_radius: f64,
    /// The names of nodes; empty if there are too many nodes to show names.
    pub(super) labels: Vec<TextLabel>,
    /// The rectangle around everything.
    pub(super) rect: Rect,
    /// Number of connected parts of the network.
    pub(super) parts: usize,
}

/// Sizes that depend on the number of nodes.
struct Scale {
    radius: f64,
    self_radius: f64,
    /// Mean distance between a node and the node nearest to it.
    spacing: f64,
    font_size: f64,
}

/// One connected part of the network, laid out by itself.
struct Part {
    nodes: Vec<usize>,
    positions: Vec<Point>,
    labels: Vec<TextLabel>,
    rect: Rect,
}

impl Picture {
    pub(super) fn of(network: &NetworkGraph) -> Self {
        let links = network.pairs();
        let scale = Scale::of(network.nodes.len());
        let texts = label_texts(&network.nodes);
        let neighbours = network.neighbours();
        let components = neighbours.components();
        let mut part_of = vec![0; network.nodes.len()];
        for (part, nodes) in components.iter().enumerate() {
            nodes.iter().for_each(|node| part_of[*node] = part);
        }
        let mut links_of = vec![Vec::new(); components.len()];
        for link in &links {
            links_of[part_of[link.from]].push((link.from, link.to));
        }
        let parts = components.into_iter().zip(links_of).map(|(nodes, links)| {
            let ids: Vec<_> = nodes.iter().map(|node| network.nodes[*node].id).collect();
            let positions = scale.spread(lay_out(&ids, &neighbours.among(&nodes)));
            Part::new(nodes, positions, &links, &texts, &scale)
        });
        let parts = in_rows(parts.collect());

        let mut picture = Self {
            positions: vec![Point::default(); network.nodes.len()],
            links,
            radius: scale.radius,
            self_radius: scale.self_radius,
            labels: Vec::new(),
            rect: Rect::default(),
            parts: parts.len(),
        };
        for part in parts {
            for (node, position) in part.nodes.into_iter().zip(part.positions) {
                picture.positions[node] = position;
            }
            picture.labels.extend(part.labels);
            // The first part has its corner at the origin, so the empty rectangle there does not enlarge the
            // union.
            picture.rect = picture.rect.union(part.rect);
        }
        picture
    }
}

impl Scale {
    fn of(nodes: usize) -> Self {
        let (radius, self_radius, spacing, font_size) = match nodes {
            0..=40 => (9.0, 11.0, 90.0, 13.0),
            41..=MAX_NODES_WITH_NAMES => (7.0, 9.0, 70.0, 11.0),
            151..=1000 => (5.0, 9.0, 26.0, 11.0),
            _ => (3.0, 12.0, 12.0, 11.0),
        };
        Self { radius, self_radius, spacing, font_size }
    }

    /// Scales a layout to pixels, so that the mean distance between a node and its nearest node is `spacing`.
    fn spread(&self, positions: Vec<Point>) -> Vec<Point> {
        // The mean of about a thousand nodes is exact enough.
        let sample = positions.iter().enumerate().step_by(positions.len() / 1000 + 1);
        let nearest = sample.clone().filter_map(|(node, position)| {
            let others = positions.iter().enumerate().filter(|(other, _)| *other != node);
            others.map(|(_, other)| (*other - *position).squared()).min_by(f64::total_cmp)
        });
        let sum: f64 = nearest.map(f64::sqrt).sum();
        let factor =
            if sum > 0.0 { self.spacing * sample.len() as f64 / sum } else { self.spacing };
        positions.into_iter().map(|position| position * factor).collect()
    }
}

impl Part {
    fn new(
        nodes: Vec<usize>,
        positions: Vec<Point>,
        links: &[(usize, usize)],
        texts: &[String],
        scale: &Scale,
    ) -> Self {
        let mut local_indices: BTreeMap<usize, usize> = BTreeMap::new();
        local_indices.extend(nodes.iter().enumerate().map(|(index, node)| (*node, index)));
        let labels = if texts.len() <= MAX_NODES_WITH_NAMES {
            let texts: Vec<String> = nodes.iter().map(|node| texts[*node].clone()).collect();
            let links = links
                .iter()
                .filter_map(|(a, b)| Some((*local_indices.get(a)?, *local_indices.get(b)?)));
            let links: Vec<_> = links.collect();
            labels::place_labels(&texts, scale.font_size, &positions, scale.self_radius, &links)
        } else {
            Vec::new()
        };
        let rect = Rect::bounding(&positions).padded(scale.self_radius);
        let rect = labels.iter().fold(rect, |rect, label| rect.union(label.rect));
        Self { nodes, positions, labels, rect }
    }

    fn move_to(&mut self, corner: Point) {
        let shift = corner - self.rect.top_left;
        self.positions.iter_mut().for_each(|position| *position += shift);
        self.labels.iter_mut().for_each(|label| label.rect = label.rect.moved(shift));
        self.rect = self.rect.moved(shift);
    }
}

/// Arranges the parts in rows, the highest part first, so that the picture has about the proportions of a
/// screen.
fn in_rows(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by(|a, b| b.rect.height().total_cmp(&a.rect.height()));
    let area = parts.iter().map(|part| (part.rect.width() + GAP) * (part.rect.height() + GAP));
    let widest = parts.iter().map(|part| part.rect.width()).fold(0.0, f64::max);
    // A screen is about 1.6 times as wide as it is high.
    let row_width = (area.sum::<f64>() * 1.6).sqrt().max(widest);
    let (mut corner, mut height) = (Point::default(), 0.0_f64);
    for part in &mut parts {
        // A part that does not fit into the row begins the next one. The first part of a row always fits.
        if corner.x > 0.0 && corner.x + part.rect.width() > row_width {
            corner = Point { x: 0.0, y: corner.y + height + GAP };
            height = 0.0;
        }
        part.move_to(corner);
        corner.x += part.rect.width() + GAP;
        height = height.max(part.rect.height());
    }
    parts
}

/// Returns the label of each node: its name, or the first digits of its identity if it has no name. If
/// several nodes have the same name, the digits follow the name.
fn label_texts(nodes: &[NetworkNode]) -> Vec<String> {
    let names: Vec<String> = nodes.iter().map(|node| shortened(&node.name)).collect();
    let mut counts = BTreeMap::new();
    for name in &names {
        *counts.entry(name).or_insert(0) += 1;
    }
    let texts = names.iter().zip(nodes).map(|(name, node)| match counts.get(name) {
        _ if name.is_empty() => node.id.short(),
        Some(1) => name.clone(),
        _ => format!("{name} ({})", node.id.short()),
    });
    texts.collect()
}

/// Escapes a name, and cuts it after [`MAX_LETTERS`] letters.
fn shortened(text: &str) -> String {
    let text = escape_disallowed(text);
    match text.char_indices().nth(MAX_LETTERS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{infos, network_of};

    #[test]
    fn parts_do_not_overlap() {
        let links = [(0, 1), (1, 2), (3, 4), (4, 5), (5, 3), (6, 7)];
        let network = network_of(&infos(10, &links));
        let picture = Picture::of(&network);
        assert_eq!(picture.parts, 5);
        let parts = network.neighbours().components();
        let rect = |nodes: &Vec<usize>| {
            let positions: Vec<Point> = nodes.iter().map(|node| picture.positions[*node]).collect();
            Rect::bounding(&positions).padded(picture.radius)
        };
        let rects: Vec<Rect> = parts.iter().map(rect).collect();
        for (index, one) in rects.iter().enumerate() {
            assert!(rects[..index].iter().all(|other| one.overlap(*other) == 0.0), "{rects:?}");
            assert_eq!(picture.rect.union(*one), picture.rect);
        }
        assert!(picture.rect.width() > picture.rect.height());
    }

    #[test]
    fn equal_names_are_followed_by_digits_of_the_identity() {
        let mut infos = infos(4, &[]);
        for (info, name) in infos.iter_mut().zip(["bob", "bob", "", "a name of very many letters"])
        {
            info.name = name.to_owned();
        }
        let network = network_of(&infos);
        let mut texts = label_texts(&network.nodes);
        texts.sort();
        let digits = |n: u16| crate::network::tests::id(n).short();
        let mut expected = [
            digits(2),
            "a name of very many lett…".to_owned(),
            format!("bob ({})", digits(0)),
            format!("bob ({})", digits(1)),
        ];
        expected.sort();
        assert_eq!(texts, expected);
    }
}
