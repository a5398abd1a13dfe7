//! Figures as plots: how a cost grows, a line a peer, drawn as SVG.

use std::io;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{Line, distinct};

/// A plot of figures whose case begins with the number along the x axis.
struct Plot {
    /// Its file's name.
    file: &'static str,
    title: &'static str,
    bench: &'static str,
    /// What stands in a case before the number, and behind it.
    case: (&'static str, &'static str),
    unit: &'static str,
    x: Axis,
    y: Axis,
}

/// An axis: what it says, and whether steps are factors.
#[derive(Clone, Copy)]
struct Axis {
    label: &'static str,
    log: bool,
}

const fn linear(label: &'static str) -> Axis {
    Axis { label, log: false }
}

const fn log(label: &'static str) -> Axis {
    Axis { label, log: true }
}

const PLOTS: &[Plot] = &[
    Plot {
        file: "connections.svg",
        title: "TCP echo of 64 B in memory, connections in turn",
        bench: "scaling",
        case: ("", " connections, 64 B"),
        unit: "ns",
        x: log("connections"),
        y: log("ns a round trip"),
    },
    Plot {
        file: "payload.svg",
        title: "TCP echo in memory, one connection",
        bench: "scaling",
        case: ("", " B, 1 connection"),
        unit: "ns",
        x: log("bytes a request"),
        y: log("ns a round trip"),
    },
    Plot {
        file: "kernel_cpu.svg",
        title: "Kernel sockets, closed loop: CPU of the server",
        bench: "kernel_echo",
        case: ("", " connections, closed loop, cpu"),
        unit: "ns/request",
        x: log("connections"),
        y: log("ns a request"),
    },
    Plot {
        file: "kernel_p99.svg",
        title: "Kernel sockets, open loop: 99th percentile",
        bench: "kernel_echo",
        case: ("", " connections, open loop, p99"),
        unit: "us",
        x: log("connections"),
        y: log("µs"),
    },
    Plot {
        file: "loss.svg",
        title: "Goodput at 20 ms and 100 Mbit/s",
        bench: "goodput",
        case: ("20 ms, ", " % lost, 100 Mbit/s"),
        unit: "kB/s",
        x: linear("% of frames lost"),
        y: log("kB/s"),
    },
    Plot {
        file: "cores.svg",
        title: "What so many cores serve, beside one",
        bench: "cores",
        case: ("", " cores, packet"),
        unit: "cores",
        x: linear("cores"),
        y: linear("cores' worth of requests"),
    },
];

/// A peer's points, from left to right.
type Series<'a> = Vec<(&'a str, Vec<(f64, f64)>)>;

impl Plot {
    fn x_of(&self, case: &str) -> Option<f64> {
        case.strip_prefix(self.case.0)?.strip_suffix(self.case.1)?.trim().parse().ok()
    }

    fn series<'a>(&self, lines: &'a [Line]) -> Series<'a> {
        let mine = || lines.iter().filter(|line| line.bench == self.bench && line.unit == self.unit);
        let points = |peer: &str| {
            let of_peer = mine().filter(|line| line.peer == peer);
            let mut points: Vec<(f64, f64)> =
                of_peer.filter_map(|line| Some((self.x_of(&line.case)?, line.median))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            points
        };
        let peers = distinct(mine().map(|line| &*line.peer)).into_iter();
        peers.map(|peer| (peer, points(peer))).filter(|(_, points)| !points.is_empty()).collect()
    }
}

/// Draws every plot that `lines` have figures for: file name, title, SVG.
///
/// # Errors
/// What the drawing library said.
pub fn draw(lines: &[Line]) -> io::Result<Vec<(String, String, String)>> {
    let mut drawn = Vec::new();
    for plot in PLOTS {
        let series = plot.series(lines);
        // One point is no line.
        if series.iter().all(|(_, points)| points.len() < 2) {
            continue;
        }
        let mut svg = String::new();
        draw_one(plot, &series, &mut svg)
            .map_err(|error| io::Error::other(format!("{}: {error}", plot.file)))?;
        drawn.push((plot.file.to_owned(), plot.title.to_owned(), svg));
    }
    Ok(drawn)
}

const SIZE: (u32, u32) = (900, 440);
/// What the names of the peers have of it, beside the chart: within, they would hide lines.
const LEGEND_WIDTH: u32 = 170;

/// Told apart on white, by most who do not see all colours, too (Okabe and Ito's, the yellow darker).
const COLOURS: [RGBColor; 9] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(150, 120, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(120, 60, 170),
    RGBColor(150, 150, 150),
];

/// The line of a peer; ours stand out.
fn style_of(at: usize, peer: &str) -> ShapeStyle {
    COLOURS[at % COLOURS.len()].stroke_width(if peer.starts_with("demi") { 3 } else { 1 })
}

/// Marks on an axis from nothing to `high`: whole numbers where they are few.
fn marks(high: f64) -> usize {
    if high <= 10.0 { high.ceil() as usize + 1 } else { 10 }
}

fn draw_one(plot: &Plot, series: &Series<'_>, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let all = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    let x = ends(&mut all().map(|(x, _)| x));
    let y = ends(&mut all().map(|(_, y)| y));
    // A logarithm's axis begins at the least value, and has room for it; the other begins at nothing.
    let range = |axis: Axis, (low, high): (f64, f64), room: f64| match axis.log {
        true => low.max(1e-3) / room..(high * room).max(low.max(1e-3) * 2.0),
        // To a mark, where whole numbers are marked.
        false => 0.0..(if high <= 10.0 { high.ceil() } else { high } * 1.05).max(1e-3),
    };
    let (x_range, y_range) = (range(plot.x, x, 1.0), range(plot.y, y, 1.3));
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (chart, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let marks = (marks(x.1), marks(y.1));
    match (plot.x.log, plot.y.log) {
        (true, true) => lines_on(plot, series, &chart, marks, x_range.log_scale(), y_range.log_scale())?,
        (true, false) => lines_on(plot, series, &chart, marks, x_range.log_scale(), y_range)?,
        (false, true) => lines_on(plot, series, &chart, marks, x_range, y_range.log_scale())?,
        (false, false) => lines_on(plot, series, &chart, marks, x_range, y_range)?,
    }
    for (at, (peer, _)) in series.iter().enumerate() {
        let y = 48 + 20 * at as i32;
        legend.draw(&PathElement::new([(0, y), (22, y)], style_of(at, peer)))?;
        legend.draw(&Text::new(*peer, (28, y - 6), ("sans-serif", 13)))?;
    }
    area.present()?;
    Ok(())
}

fn lines_on<X, Y>(
    plot: &Plot,
    series: &Series<'_>,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    marks: (usize, usize),
    x_range: X,
    y_range: Y,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d(x_range, y_range)?;
    chart
        .configure_mesh()
        .x_labels(marks.0)
        .y_labels(marks.1)
        // A logarithm's steps are read by them; elsewhere they say nothing.
        .x_max_light_lines(if plot.x.log { 9 } else { 0 })
        .y_max_light_lines(if plot.y.log { 9 } else { 0 })
        .light_line_style(BLACK.mix(0.06))
        .x_desc(plot.x.label)
        .y_desc(plot.y.label)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    for (at, (peer, points)) in series.iter().enumerate() {
        let line = LineSeries::new(points.iter().copied(), style_of(at, peer));
        chart.draw_series(line.point_size(3))?;
    }
    Ok(())
}

/// A number as an axis has it: 1k, 10M.
fn short(value: f64) -> String {
    let (scaled, suffix) = match value {
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let text = format!("{scaled:.1}");
    format!("{}{suffix}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::read;

    fn echo(peer: &str, connections: u32, median: u32) -> String {
        format!(
            r#"{{"bench":"scaling","peer":"{peer}","case":"{connections} connections, 64 B","unit":"ns","median":{median}}}"#
        ) + "\n"
    }

    #[test]
    fn each_peer_is_a_line_from_left_to_right() {
        let text = echo("demi", 1000, 400) + &echo("demi", 1, 300) + &echo("smoltcp", 1, 470);
        let lines = read(&text);
        let series = PLOTS[0].series(&lines);
        assert_eq!(series, [("demi", vec![(1.0, 300.0), (1000.0, 400.0)]), ("smoltcp", vec![(1.0, 470.0)]),]);
        let drawn = draw(&lines).expect("a drawing");
        assert_eq!(drawn.len(), 1, "only what has figures");
        let (file, _, svg) = &drawn[0];
        assert_eq!(file, "connections.svg");
        assert!(svg.starts_with("<svg") && svg.contains("smoltcp") && svg.contains("1k"), "{svg}");
    }

    #[test]
    fn one_figure_makes_no_plot() {
        assert!(draw(&read(&echo("demi", 1, 300))).expect("nothing to draw").is_empty());
    }

    #[test]
    fn few_whole_numbers_are_all_marked() {
        assert_eq!([1.0, 1.85, 4.0, 5.0, 20_000.0].map(marks), [2, 3, 5, 6, 10]);
    }

    #[test]
    fn axes_are_labelled_in_thousands() {
        assert_eq!([0.5, 10.0, 1500.0, 1e6].map(short), ["0.5", "10", "1.5k", "1M"]);
    }
}
