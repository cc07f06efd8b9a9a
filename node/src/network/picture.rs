//! The graph laid out as a picture: where each node and each name lies, in pixels.

use std::collections::BTreeMap;

use super::labels::{self, TextLabel};
use super::layout::lay_out;
use super::shapes::{Point, Rect};
use super::xml::allowed;
use super::{NetworkGraph, NetworkNode, NodePair};

/// The most nodes that have their names beside them; of more one could read none.
const NAMED: usize = 150;

/// Letters of a name that are shown; a name is 64 bytes at most.
const LETTERS: usize = 24;

/// Pixels between two parts of the network.
const GAP: f64 = 40.0;

/// Where everything lies.
#[derive(Debug)]
pub(super) struct Picture {
    /// Each node's place, in the graph's order.
    pub(super) places: Vec<Point>,
    pub(super) links: Vec<NodePair>,
    /// Of a node's circle.
    pub(super) radius: f64,
    /// Of the circle of the node that asked, which is to be found among many.
    pub(super) self_radius: f64,
    /// Nodes' names; none where they are too many.
    pub(super) labels: Vec<TextLabel>,
    /// All that is drawn.
    pub(super) rect: Rect,
    /// Parts that no link connects.
    pub(super) parts: usize,
}

/// How large things are, which depends on how many there are.
struct Scale {
    radius: f64,
    self_radius: f64,
    /// Between a node and the one next to it.
    spacing: f64,
    /// Letters' size.
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

    /// A layout in pixels: as large as it takes for nodes to be as far from the next one as they
    /// should be, on average.
    fn spread(&self, places: Vec<Point>) -> Vec<Point> {
        // A thousand of them tell it well enough.
        let some = places.iter().enumerate().step_by(places.len() / 1000 + 1);
        let nearest = some.clone().filter_map(|(node, place)| {
            let others = places.iter().enumerate().filter(|(other, _)| *other != node);
            others.map(|(_, other)| (*other - *place).squared()).min_by(f64::total_cmp)
        });
        let sum: f64 = nearest.map(f64::sqrt).sum();
        let factor = match sum > 0.0 {
            true => self.spacing * some.len() as f64 / sum,
            false => self.spacing,
        };
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
        let labels = match texts.len() <= NAMED {
            true => {
                let texts: Vec<String> = nodes.iter().map(|node| texts[*node].clone()).collect();
                let links =
                    links.iter().filter_map(|(a, b)| Some((*local.get(a)?, *local.get(b)?)));
                let links: Vec<_> = links.collect();
                labels::place(&texts, scale.letters, &places, scale.self_radius, &links)
            }
            false => Vec::new(),
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

/// The parts beside and below each other, the highest first, about as wide as a screen.
fn in_rows(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by(|a, b| b.rect.height().total_cmp(&a.rect.height()));
    let area = parts.iter().map(|part| (part.rect.width() + GAP) * (part.rect.height() + GAP));
    let widest = parts.iter().map(|part| part.rect.width()).fold(0.0, f64::max);
    let room = (area.sum::<f64>() * 1.6).sqrt().max(widest);
    let (mut corner, mut height) = (Point::default(), 0.0_f64);
    for part in &mut parts {
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

/// What stands beside each node: its name, with the first digits of its id where others have the
/// same name or it has none.
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

/// As much of a text as there is room for.
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
    fn a_name_that_others_have_too_is_told_apart() {
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
