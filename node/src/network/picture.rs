//! The graph laid out as a picture: the positions of nodes and names, in pixels.

use std::collections::BTreeMap;

use super::labels::{self, TextLabel};
use super::layout::lay_out;
use super::shapes::{Point, Rect};
use super::text::allowed;
use super::{NetworkGraph, NetworkNode, NodePair};

/// Most nodes whose names are shown. With more of them none would be legible.
const NAMED: usize = 150;

/// Most letters of a name that are shown. A name has at most 64 bytes.
const LETTERS: usize = 24;

/// Pixels between two parts of the network.
const GAP: f64 = 40.0;

/// The positions of everything in the picture.
#[derive(Debug)]
pub(super) struct Picture {
    /// The position of each node, in the order of the graph.
    pub(super) places: Vec<Point>,
    pub(super) links: Vec<NodePair>,
    /// The radius of a node's circle.
    pub(super) radius: f64,
    /// The radius of this node's circle, which stands out among many.
    pub(super) self_radius: f64,
    /// The names of nodes; empty if there are too many.
    pub(super) labels: Vec<TextLabel>,
    /// The rectangle around everything.
    pub(super) rect: Rect,
    /// Number of parts without a link between them.
    pub(super) parts: usize,
}

/// Sizes that depend on the number of nodes.
struct Scale {
    radius: f64,
    self_radius: f64,
    /// Distance between a node and the nearest one.
    spacing: f64,
    /// The font size.
    letters: f64,
}

/// One part of the network, laid out by itself.
struct Part {
    nodes: Vec<usize>,
    places: Vec<Point>,
    labels: Vec<TextLabel>,
    rect: Rect,
}

impl Picture {
    pub(super) fn of(network: &NetworkGraph) -> Self {
        let links = network.pairs();
        let scale = Scale::of(network.nodes.len());
        let texts = texts(&network.nodes);
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
            let places = scale.spread(lay_out(&ids, &neighbours.among(&nodes)));
            Part::new(nodes, places, &links, &texts, &scale)
        });
        let parts = in_rows(parts.collect());

        let mut picture = Self {
            places: vec![Point::default(); network.nodes.len()],
            links,
            radius: scale.radius,
            self_radius: scale.self_radius,
            labels: Vec::new(),
            rect: Rect::default(),
            parts: parts.len(),
        };
        for part in parts {
            for (node, place) in part.nodes.into_iter().zip(part.places) {
                picture.places[node] = place;
            }
            picture.labels.extend(part.labels);
            // The empty rectangle at the origin adds nothing: the first part has its corner there.
            picture.rect = picture.rect.with(part.rect);
        }
        picture
    }
}

impl Scale {
    fn of(nodes: usize) -> Self {
        let (radius, self_radius, spacing, letters) = match nodes {
            0..=40 => (9.0, 11.0, 90.0, 13.0),
            41..=NAMED => (7.0, 9.0, 70.0, 11.0),
            151..=1000 => (5.0, 9.0, 26.0, 11.0),
            _ => (3.0, 12.0, 12.0, 11.0),
        };
        Self { radius, self_radius, spacing, letters }
    }

    /// Scales a layout to pixels, so that nodes have the intended distance to the nearest one on average.
    fn spread(&self, places: Vec<Point>) -> Vec<Point> {
        // A sample of a thousand nodes is enough.
        let some = places.iter().enumerate().step_by(places.len() / 1000 + 1);
        let nearest = some.clone().filter_map(|(node, place)| {
            let others = places.iter().enumerate().filter(|(other, _)| *other != node);
            others.map(|(_, other)| (*other - *place).squared()).min_by(f64::total_cmp)
        });
        let sum: f64 = nearest.map(f64::sqrt).sum();
        let factor = if sum > 0.0 { self.spacing * some.len() as f64 / sum } else { self.spacing };
        places.into_iter().map(|place| place * factor).collect()
    }
}

impl Part {
    fn new(
        nodes: Vec<usize>,
        places: Vec<Point>,
        links: &[(usize, usize)],
        texts: &[String],
        scale: &Scale,
    ) -> Self {
        let mut local: BTreeMap<usize, usize> = BTreeMap::new();
        local.extend(nodes.iter().enumerate().map(|(place, node)| (*node, place)));
        let labels = if texts.len() <= NAMED {
            let texts: Vec<String> = nodes.iter().map(|node| texts[*node].clone()).collect();
            let links = links.iter().filter_map(|(a, b)| Some((*local.get(a)?, *local.get(b)?)));
            let links: Vec<_> = links.collect();
            labels::place(&texts, scale.letters, &places, scale.self_radius, &links)
        } else {
            Vec::new()
        };
        let rect = Rect::around(&places).padded(scale.self_radius);
        let rect = labels.iter().fold(rect, |rect, label| rect.with(label.rect));
        Self { nodes, places, labels, rect }
    }

    fn move_to(&mut self, corner: Point) {
        let way = corner - self.rect.least;
        self.places.iter_mut().for_each(|place| *place += way);
        self.labels.iter_mut().for_each(|label| label.rect = label.rect.moved(way));
        self.rect = self.rect.moved(way);
    }
}

/// Arranges the parts in rows, the highest first, with the proportions of a screen.
fn in_rows(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by(|a, b| b.rect.height().total_cmp(&a.rect.height()));
    let area = parts.iter().map(|part| (part.rect.width() + GAP) * (part.rect.height() + GAP));
    let widest = parts.iter().map(|part| part.rect.width()).fold(0.0, f64::max);
    // 1.6 is about the proportion of a screen.
    let room = (area.sum::<f64>() * 1.6).sqrt().max(widest);
    let (mut corner, mut height) = (Point::default(), 0.0_f64);
    for part in &mut parts {
        // A part that does not fit begins the next row. The first of a row always fits.
        if corner.x > 0.0 && corner.x + part.rect.width() > room {
            corner = Point { x: 0.0, y: corner.y + height + GAP };
            height = 0.0;
        }
        part.move_to(corner);
        corner.x += part.rect.width() + GAP;
        height = height.max(part.rect.height());
    }
    parts
}

/// Returns the label of each node: its name, with the first digits of its identity if others have the same
/// name, or those digits alone if it has none.
fn texts(nodes: &[NetworkNode]) -> Vec<String> {
    let names: Vec<String> = nodes.iter().map(|node| shortened(&node.name)).collect();
    let mut bearers = BTreeMap::new();
    for name in &names {
        *bearers.entry(name).or_insert(0) += 1;
    }
    let named = names.iter().zip(nodes).map(|(name, node)| match bearers.get(name) {
        _ if name.is_empty() => node.id.short(),
        Some(1) => name.clone(),
        _ => format!("{name} ({})", node.id.short()),
    });
    named.collect()
}

/// Cuts a text to the length that there is room for.
pub(super) fn shortened(text: &str) -> String {
    let text = allowed(text);
    match text.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{infos, network_of};

    #[test]
    fn parts_lie_beside_each_other() {
        let links = [(0, 1), (1, 2), (3, 4), (4, 5), (5, 3), (6, 7)];
        let network = network_of(&infos(10, &links));
        let picture = Picture::of(&network);
        assert_eq!(picture.parts, 5);
        let parts = network.neighbours().components();
        let rect = |nodes: &Vec<usize>| {
            let places: Vec<Point> = nodes.iter().map(|node| picture.places[*node]).collect();
            Rect::around(&places).padded(picture.radius)
        };
        let rects: Vec<Rect> = parts.iter().map(rect).collect();
        for (index, one) in rects.iter().enumerate() {
            assert!(rects[..index].iter().all(|other| one.overlap(*other) == 0.0), "{rects:?}");
            assert_eq!(picture.rect.with(*one), picture.rect);
        }
        assert!(picture.rect.width() > picture.rect.height());
    }

    #[test]
    fn equal_names_are_made_distinct() {
        let mut infos = infos(4, &[]);
        for (info, name) in infos.iter_mut().zip(["bob", "bob", "", "a name of very many letters"])
        {
            info.name = name.to_owned();
        }
        let network = network_of(&infos);
        let mut texts = texts(&network.nodes);
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
