//! The graph as an SVG picture. It has no scripts, and uses no fonts or styles from other files.

use std::fmt::Write as _;

use super::labels::{self, Anchor, TextLabel};
use super::picture::Picture;
use super::shapes::{Point, Rect};
use super::text::{count, escape_disallowed, escape_xml, label};
use super::{NetworkGraph, NetworkNode};

/// Width of the margin, in pixels.
const MARGIN: f64 = 24.0;

// The picture has a background of its own, so that it is legible on any page.
const PAPER: &str = "#fbfaf7";
const INK: &str = "#22303c";
const FAINT: &str = "#5f6f7c";
const LINE: &str = "#8a9aa8";
const NODE: &str = "fill=\"#cfe0ee\" stroke=\"#3d6a92\"";
const SELF: &str = "fill=\"#f2643d\" stroke=\"#8f2f12\"";
const SILENT: &str = "fill=\"#fbfaf7\" stroke=\"#5f6f7c\" stroke-dasharray=\"3 2\"";

impl NetworkGraph {
    /// Writes the network as an SVG picture that needs no other files. Each arrow starts at the node that
    /// dialled.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let picture = Picture::of(self);
        // Viewers scale a large picture down to the window, so its heading and legend are larger.
        let zoom = (picture.rect.width().max(picture.rect.height()) / 1200.0).max(1.0);
        let heading = self.heading(picture.parts, zoom);
        let head = heading.iter().fold(Rect::default(), |all, line| all.union(line.rect));
        let below = head.bottom_right.y + 20.0 * zoom;
        let drawing = picture.rect.moved(Point { x: 0.0, y: below } - picture.rect.top_left);
        let legend = self.legend(drawing.bottom_right.y + 34.0 * zoom, zoom);
        let all = legend.iter().fold(head.union(drawing), |all, (_, label)| all.union(label.rect));
        let margin = MARGIN * zoom;
        let all = all.padded(margin);
        // A narrow drawing is centred below a wide heading.
        let left = (all.width() - 2.0 * margin - drawing.width()) / 2.0;
        let shift = Point { x: left, y: below } - picture.rect.top_left;

        let mut svg = String::new();
        let (x, y, width, height) = (all.top_left.x, all.top_left.y, all.width(), all.height());
        let _ = writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{x:.0} {y:.0} {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"sans-serif\">"
        );
        let title: Vec<String> = heading.iter().map(|line| escape_xml(&line.text)).collect();
        let _ = writeln!(svg, "<title>{}</title>", title.join(": "));
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" fill=\"{PAPER}\"/>"
        );
        for (line, style) in
            heading.iter().zip([format!(" fill=\"{INK}\""), format!(" fill=\"{FAINT}\"")])
        {
            write_text(&mut svg, line, &style);
        }
        write_links(&mut svg, &picture, shift, zoom);
        self.write_nodes(&mut svg, &picture, shift);
        write_labels(&mut svg, &picture, shift);
        for (sign, label) in &legend {
            svg.push_str(sign);
            write_text(&mut svg, label, &format!(" fill=\"{FAINT}\""));
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Returns the two lines of the heading: the network's name, and its size.
    fn heading(&self, parts: usize, zoom: f64) -> [TextLabel; 2] {
        let name = match self.name.as_str() {
            "" => "network".to_owned(),
            name => escape_disallowed(name),
        };
        let mut size =
            format!("{}, {}", count(self.nodes.len(), "node"), count(self.links(), "link"));
        if parts > 1 {
            let _ = write!(size, ", {parts} parts");
        }
        let silent = self.nodes.iter().filter(|node| !node.answered).count();
        if silent > 0 {
            let _ = write!(size, ", {silent} did not answer");
        }
        let below = Point { x: 0.0, y: 30.0 * zoom };
        [
            TextLabel::new(name, 20.0 * zoom, Point::default()),
            TextLabel::new(size, 13.0 * zoom, below),
        ]
    }

    /// Returns the legend as one row of pairs: the SVG element of a sign, and its meaning. Signs that do not
    /// occur in the picture are left out.
    fn legend(&self, y: f64, zoom: f64) -> Vec<(String, TextLabel)> {
        let circle = |style: &'static str| {
            move |x: f64| {
                let (x, radius) = (x + 6.0 * zoom, 6.0 * zoom);
                format!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" \
                     stroke-width=\"{zoom:.1}\" {style}/>\n"
                )
            }
        };
        let arrow = |x: f64| {
            let (tip, up, down) = (x + 22.0 * zoom, y - 4.0 * zoom, y + 4.0 * zoom);
            let neck = tip - 8.0 * zoom;
            format!(
                "<path d=\"M{x:.1} {y:.1}H{neck:.1}V{up:.1}L{tip:.1} {y:.1}L{neck:.1} {down:.1}V{y:.1}\" \
                 fill=\"{LINE}\" stroke=\"{LINE}\" stroke-width=\"{zoom:.1}\"/>\n"
            )
        };
        let mut legend = Vec::new();
        let mut x = 0.0;
        let mut add = |sign: &dyn Fn(f64) -> String, width: f64, text: &str| {
            let corner = Point { x: x + (width + 6.0) * zoom, y: y - 8.0 * zoom };
            let label = TextLabel::new(text.to_owned(), 12.0 * zoom, corner);
            let sign = sign(x);
            x = label.rect.bottom_right.x + 18.0 * zoom;
            legend.push((sign, label));
        };
        let has = |kind: fn(&NetworkNode) -> bool| self.nodes.iter().any(kind);
        if has(|node| node.is_self) {
            add(&circle(SELF), 12.0, "this node");
        }
        if has(|node| node.answered && !node.is_self) {
            add(&circle(NODE), 12.0, "another node");
        }
        if has(|node| !node.answered) {
            add(&circle(SILENT), 12.0, "did not answer");
        }
        if !self.edges.is_empty() {
            add(&arrow, 22.0, "from the node that dialled");
        }
        legend
    }

    fn write_nodes(&self, svg: &mut String, picture: &Picture, shift: Point) {
        let _ = writeln!(svg, "<g id=\"nodes\" {NODE}>");
        for (node, position) in self.nodes.iter().zip(&picture.positions) {
            let position = *position + shift;
            let (radius, style) = match (node.is_self, node.answered) {
                (true, _) => (picture.self_radius, format!(" {SELF}")),
                (false, true) => (picture.radius, String::new()),
                (false, false) => (picture.radius, format!(" {SILENT}")),
            };
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"{style}><title>{}</title></circle>",
                position.x,
                position.y,
                escape_xml(&tooltip(node))
            );
        }
        svg.push_str("</g>\n");
    }
}

/// Returns the tooltip of a node.
fn tooltip(node: &NetworkNode) -> String {
    let address = node.address.as_deref().unwrap_or("no address");
    let self_note = if node.is_self { ", this node" } else { "" };
    let silent_note = if node.answered { "" } else { ", no answer" };
    format!("{} {address}{self_note}{silent_note}", label(&node.id, &node.name))
}

fn write_links(svg: &mut String, picture: &Picture, shift: Point, zoom: f64) {
    // The more lines there are, the fainter each line is. Otherwise they would merge into one area.
    let (width, arrow, opacity) = match picture.links.len() {
        0..=300 => (1.4, 8.0, 1.0),
        301..=1500 => (0.9, 6.0, 0.6),
        1501..=6000 => (0.7, 5.0, 0.3),
        _ => (0.5, 4.0, 0.15),
    };
    let (width, half) = (width * zoom.sqrt(), arrow / 2.0);
    for (name, at, points) in [
        ("to", arrow, format!("0,0 {arrow},{half} 0,{arrow}")),
        ("from", 0.0, format!("{arrow},0 0,{half} {arrow},{arrow}")),
    ] {
        let _ = writeln!(
            svg,
            "<marker id=\"{name}\" markerUnits=\"userSpaceOnUse\" orient=\"auto\" \
             markerWidth=\"{arrow}\" markerHeight=\"{arrow}\" refX=\"{at}\" refY=\"{half}\">\
             <polygon points=\"{points}\" fill=\"{LINE}\" fill-opacity=\"{opacity}\"/></marker>"
        );
    }
    let _ = writeln!(
        svg,
        "<g id=\"links\" stroke=\"{LINE}\" stroke-width=\"{width:.2}\" stroke-opacity=\"{opacity}\" \
         marker-end=\"url(#to)\">"
    );
    for link in &picture.links {
        let (from, to) = (picture.positions[link.from] + shift, picture.positions[link.to] + shift);
        let length = (to - from).length();
        // The line connects the edges of the two circles, not their centres.
        let circle = (to - from) * ((picture.radius + 1.0) / length.max(1e-9)).min(0.45);
        let (from, to) = (from + circle, to - circle);
        let back = if link.both_dialled { " marker-start=\"url(#from)\"" } else { "" };
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\"{back}/>",
            from.x, from.y, to.x, to.y
        );
    }
    svg.push_str("</g>\n");
}

fn write_labels(svg: &mut String, picture: &Picture, shift: Point) {
    let _ = writeln!(svg, "<g id=\"names\" fill=\"{INK}\">");
    for label in &picture.labels {
        let label = TextLabel { rect: label.rect.moved(shift), ..label.clone() };
        let rect = label.rect;
        // The background keeps a link behind the label from running through the letters.
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\" \
             fill=\"{PAPER}\" fill-opacity=\"0.7\"/>",
            rect.top_left.x,
            rect.top_left.y,
            rect.width(),
            rect.height()
        );
        write_text(svg, &label, "");
    }
    svg.push_str("</g>\n");
}

fn write_text(svg: &mut String, label: &TextLabel, style: &str) {
    let position = label.baseline();
    let width = labels::width(&label.text, label.size);
    // If letters may be wider than estimated, the viewer is asked to fit the text into the estimated width.
    let fit = if labels::may_be_wider(&label.text) {
        format!(" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\"")
    } else {
        String::new()
    };
    // SVG's default is `start`.
    let anchor = match label.anchor {
        Anchor::Start => "",
        Anchor::Middle => " text-anchor=\"middle\"",
        Anchor::End => " text-anchor=\"end\"",
    };
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{:.1}\"{anchor}{fit}{style}>{}</text>",
        position.x,
        position.y,
        label.size,
        escape_xml(&label.text)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::tests::{hostile, infos, network_of};
    use proptest::prelude::*;

    /// Returns the content of the group with this id.
    fn group<'a>(svg: &'a str, id: &str) -> &'a str {
        let start = svg.find(&format!("<g id=\"{id}\"")).unwrap();
        let length = svg[start..].find("</g>").unwrap();
        &svg[start..start + length]
    }

    /// Returns the text of an attribute.
    fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
        let (_, value) = element.split_once(&format!(" {name}=\""))?;
        Some(value.split_once('"').unwrap().0)
    }

    fn number(element: &str, name: &str) -> f64 {
        attribute(element, name).unwrap_or_else(|| panic!("{name}: {element}")).parse().unwrap()
    }

    /// Returns the elements with this name. Each is on a line of its own.
    fn elements<'a>(svg: &'a str, name: &str) -> Vec<&'a str> {
        let start = format!("<{name} ");
        svg.lines().filter(|line| line.starts_with(&start)).collect()
    }

    /// Returns the visible rectangle.
    fn view(svg: &str) -> Rect {
        let view = attribute(svg, "viewBox").unwrap().split(' ').map(|n| n.parse().unwrap());
        let [x, y, width, height]: [f64; 4] = view.collect::<Vec<_>>().try_into().unwrap();
        let top_left = Point { x, y };
        Rect { top_left, bottom_right: top_left + Point { x: width, y: height } }
    }

    /// Returns the rectangle that a text covers if its letters have the estimated width.
    fn covered(text: &str) -> Rect {
        let (_, letters) = text.split_once('>').unwrap();
        let letters = letters.split_once("</text>").unwrap().0;
        let letters = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")]
            .iter()
            .fold(letters.to_owned(), |text, (from, to)| text.replace(from, to));
        let size = number(text, "font-size");
        let width = match attribute(text, "textLength") {
            Some(length) => length.parse().unwrap(),
            None => labels::width(&letters, size),
        };
        let x = number(text, "x");
        let x = match attribute(text, "text-anchor") {
            None => x,
            Some("middle") => x - width / 2.0,
            Some(_) => x - width,
        };
        let y = number(text, "y");
        let top_left = Point { x, y: y - size };
        Rect { top_left, bottom_right: Point { x: x + width, y: y + size * 0.3 } }
    }

    #[test]
    fn a_hostile_name_stays_inside_its_element() {
        let svg = hostile().to_svg();
        assert!(
            svg.contains("<title>&lt;net\\u{0}&gt;: 2 nodes, 1 link, 1 did not answer"),
            "{svg}"
        );
        assert!(svg.contains(">a&quot;; b "), "{svg}");
        assert!(!svg.contains("<x") && !svg.contains(['\u{1b}', '\u{ffff}', '\u{202e}']), "{svg}");
    }

    #[test]
    fn an_arrow_starts_at_the_node_that_dialled() {
        let network = network_of(&infos(2, &[(1, 0)]));
        let svg = network.to_svg();
        let nodes = elements(group(&svg, "nodes"), "circle");
        let [zero, one] = [0, 1].map(|n| number(nodes[n], "cx"));
        let links = group(&svg, "links");
        assert!(links.contains("marker-end=\"url(#to)\"") && !links.contains("marker-start"));
        let path = attribute(elements(links, "path")[0], "d").unwrap();
        let (from, to) = path[1..].split_once('L').unwrap();
        let x = |point: &str| point.split_once(' ').unwrap().0.parse::<f64>().unwrap();
        assert!((x(from) - one).abs() < (x(from) - zero).abs(), "{path}");
        assert!((x(to) - zero).abs() < (x(to) - one).abs(), "{path}");

        let both = network_of(&infos(2, &[(1, 0), (0, 1)])).to_svg();
        assert!(group(&both, "links").contains("<path d=") && both.contains("marker-start="));
    }

    #[test]
    fn each_kind_of_node_has_its_sign_and_its_legend() {
        let network = network_of(&infos(3, &[(0, 1), (1, 2)])[..2]);
        let svg = network.to_svg();
        let nodes = group(&svg, "nodes");
        let circles = elements(nodes, "circle");
        assert!(circles[0].contains(SELF) && circles[0].contains("this node"), "{nodes}");
        assert!(!circles[1].contains("fill") && circles[1].contains("n1"), "{nodes}");
        assert!(circles[2].contains("dasharray") && circles[2].contains("no answer"), "{nodes}");
        for meaning in [">this node<", ">another node<", ">did not answer<", ">from the node"] {
            assert!(svg.contains(meaning), "{meaning}");
        }
        let alone = network_of(&infos(1, &[])).to_svg();
        assert!(alone.contains(">this node<") && !alone.contains(">another node<"));
        assert!(NetworkGraph::default().to_svg().ends_with("</svg>\n"));
    }

    #[test]
    fn names_of_many_nodes_are_shown_only_as_tooltips() {
        let links: Vec<(u16, u16)> = (1..200).map(|n| (n, n / 3)).collect();
        let svg = network_of(&infos(200, &links)).to_svg();
        assert_eq!(elements(group(&svg, "nodes"), "circle").len(), 200);
        assert_eq!(elements(group(&svg, "links"), "path").len(), 199);
        assert!(svg.contains("<title>n77 (") && !svg.contains(">n77<"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_node_link_and_text_is_drawn_once_inside_the_view(
            links in prop::collection::vec((0u16..14, 0u16..14), 0..30),
            names in prop::collection::vec("\\PC{0,30}|[Wm]{0,64}|\\u{fdfd}{3}", 14),
            answered in 1usize..14,
        ) {
            let mut infos = infos(14, &links);
            for (info, name) in infos.iter_mut().zip(names) {
                info.name = name;
            }
            let network = network_of(&infos[..answered]);
            let svg = network.to_svg();
            prop_assert_eq!(elements(group(&svg, "links"), "path").len(), network.links());
            let circles = elements(group(&svg, "nodes"), "circle");
            prop_assert_eq!(circles.len(), network.nodes.len());
            let view = view(&svg);
            for (node, circle) in network.nodes.iter().zip(&circles) {
                prop_assert!(circle.contains(&node.id.short()), "{}", circle);
                let middle = Point { x: number(circle, "cx"), y: number(circle, "cy") };
                let size = 2.0 * number(circle, "r");
                let circle = Rect::centred_at(middle, size, size);
                prop_assert_eq!(view.union(circle), view);
            }
            let texts = elements(&svg, "text");
            prop_assert!(texts.len() >= network.nodes.len() + 2, "{}", svg);
            for text in texts {
                prop_assert_eq!(view.union(covered(text)), view, "{}", text);
            }
        }
    }
}
