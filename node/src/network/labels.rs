//! Labels beside nodes: their estimated width, and positions at which they cover as little as possible.

use super::shapes::{Point, Rect};

/// A line of text in a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TextLabel {
    pub(super) text: String,
    /// The font size in pixels.
    pub(super) size: f64,
    /// The rectangle that the text covers.
    pub(super) rect: Rect,
    /// The point of the text that stays fixed if the viewer's font is narrower than assumed.
    pub(super) anchor: Anchor,
}

/// The point of a text that has the same position in any font.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The nodes and links that a label should not cover.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    pub(super) nodes: Vec<Rect>,
    pub(super) links: Vec<(Point, Point)>,
}

impl TextLabel {
    /// Creates a label whose upper left corner is at `corner`.
    pub(super) fn new(text: String, size: f64, corner: Point) -> Self {
        let bottom_right = corner + Point { x: width(&text, size), y: size * 1.3 };
        Self { text, size, rect: Rect { top_left: corner, bottom_right }, anchor: Anchor::Start }
    }

    /// Returns the anchor point, on the baseline of the letters.
    pub(super) fn baseline(&self) -> Point {
        let x = match self.anchor {
            Anchor::Start => self.rect.top_left.x,
            Anchor::Middle => f64::midpoint(self.rect.top_left.x, self.rect.bottom_right.x),
            Anchor::End => self.rect.bottom_right.x,
        };
        Point { x, y: self.rect.top_left.y + self.size }
    }
}

/// Returns a label for each node of one part, beside the node's circle of the given `radius`.
pub(super) fn place_labels(
    texts: &[String],
    size: f64,
    positions: &[Point],
    radius: f64,
    links: &[(usize, usize)],
) -> Vec<TextLabel> {
    let obstacles = Obstacles {
        nodes: positions
            .iter()
            .map(|position| Rect::centred_at(*position, 2.0 * radius, 2.0 * radius))
            .collect(),
        links: links.iter().map(|(a, b)| (positions[*a], positions[*b])).collect(),
    };
    let mut labels: Vec<Option<TextLabel>> = vec![None; texts.len()];
    // In the first round the positions of later labels are not known, so a second round corrects the choices.
    for _ in 0..2 {
        for node in 0..texts.len() {
            let label = TextLabel::new(texts[node].clone(), size, Point::default());
            let choices = choices(positions[node], radius, label.rect);
            let costs = choices.map(|(rect, _)| cost(rect, node, &obstacles, &labels));
            let best = (0..choices.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
            let (rect, anchor) = choices[best.unwrap_or_default()];
            labels[node] = Some(TextLabel { rect, anchor, ..label });
        }
    }
    labels.into_iter().flatten().collect()
}

/// Returns the possible positions of a label around a node, best first. Only the size of `label` matters.
fn choices(node: Point, radius: f64, label: Rect) -> [(Rect, Anchor); 8] {
    let (width, height) = (label.width(), label.height());
    let (x, y) = (radius + 3.0 + width / 2.0, radius + 1.0 + height / 2.0);
    // On the diagonals the circle leaves more room.
    let (near_x, near_y) = (radius * 0.7 + width / 2.0, radius * 0.7 + height / 2.0);
    let choices = [
        (0.0, y, Anchor::Middle),
        (0.0, -y, Anchor::Middle),
        (x, 0.0, Anchor::Start),
        (-x, 0.0, Anchor::End),
        (near_x, near_y, Anchor::Start),
        (-near_x, near_y, Anchor::End),
        (near_x, -near_y, Anchor::Start),
        (-near_x, -near_y, Anchor::End),
    ];
    choices.map(|(x, y, anchor)| (Rect::centred_at(node + Point { x, y }, width, height), anchor))
}

/// Returns the cost of a position: roughly the number of pixels that would become illegible.
fn cost(rect: Rect, node: usize, obstacles: &Obstacles, labels: &[Option<TextLabel>]) -> f64 {
    let nodes = obstacles.nodes.iter().enumerate().filter(|(other, _)| *other != node);
    // Covering a node or another label is worse than crossing a line.
    let nodes = nodes.map(|(_, other)| 4.0 * rect.overlap(*other)).sum::<f64>();
    let labels = labels.iter().enumerate().filter(|(other, _)| *other != node);
    let labels = labels.filter_map(|(_, label)| label.as_ref());
    let labels = labels.map(|label| 4.0 * rect.overlap(label.rect)).sum::<f64>();
    let crossed = obstacles.links.iter().filter(|(from, to)| rect.is_crossed(*from, *to));
    nodes + labels + 60.0 * crossed.count() as f64
}

/// Returns the estimated width of a text in pixels, in the widest of the usual fonts.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(letter_width).sum::<f64>() * size
}

/// Returns whether a text may be wider than [`width`] estimates: some characters, such as certain ligatures,
/// are many times as wide as they are high.
pub(super) fn may_be_wider(text: &str) -> bool {
    text.chars().any(|c| !matches!(c, ..'\u{530}' | '…' | '\u{2e80}'..='\u{d7ff}'))
}

/// Returns an upper bound of a letter's width in DejaVu Sans, as a fraction of the font size.
fn letter_width(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' => 0.29,
        'f' | 'r' | 't' | 'I' | ' ' | '.' | ',' | ':' | ';' | '\'' | '(' | ')' | '-' | '/' => 0.42,
        'M' | 'w' | '+' | '#' | '<' | '>' | '=' | '&' | '~' => 0.87,
        'm' | 'W' | '@' | '%' => 1.0,
        'A'..='Z' => 0.79,
        ' '..='~' => 0.65,
        _ => 1.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cover_no_node_no_link_and_no_other_label() {
        let positions = [(0.0, 0.0), (100.0, 0.0), (0.0, 40.0), (100.0, 40.0)];
        let positions = positions.map(|(x, y)| Point { x, y });
        let texts = ["left", "right", "lower left", "lower right"].map(str::to_owned);
        let links = [(0, 1), (0, 2), (1, 3), (2, 3)];
        let labels = place_labels(&texts, 12.0, &positions, 8.0, &links);
        for (index, label) in labels.iter().enumerate() {
            assert_eq!(label.text, texts[index]);
            assert!(labels[..index].iter().all(|other| other.rect.overlap(label.rect) == 0.0));
            let crossed =
                links.iter().filter(|(a, b)| label.rect.is_crossed(positions[*a], positions[*b]));
            assert_eq!(crossed.count(), 0, "{label:?}");
            let circles = positions.iter().enumerate().filter(|(node, _)| *node != index);
            let mut circles = circles.map(|(_, position)| Rect::centred_at(*position, 16.0, 16.0));
            assert!(circles.all(|circle| circle.overlap(label.rect) == 0.0), "{label:?}");
        }
    }

    #[test]
    fn widths_depend_on_letters_and_unusual_letters_may_be_wider() {
        assert!(width("WWW", 10.0) > 2.5 * width("iii", 10.0));
        assert!(!may_be_wider("Zoë, 数据, …") && may_be_wider("\u{fdfd}") && may_be_wider("🦀"));
    }
}
