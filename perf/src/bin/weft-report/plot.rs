//! Plots: what is drawn, and the same picture as SVG and as PNG.
//!
//! The font is compiled in: neither a fresh Debian nor a container has one, and the SVG's layout shall not depend on the machine
//! that it was made on.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::field::Median;

const SIZE: (u32, u32) = (1200, 480);
/// More than that nobody could tell apart.
const MOST_PANELS: usize = 8;
const MOST_GROUPS: usize = 120;
const MOST_SERIES: usize = PALETTE.len();
const FONT: &str = "sans-serif";
const TEXT: u32 = 15;
const TITLE: u32 = 19;

/// A picture; `name` is that of its files.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) name: String,
    pub(crate) title: String,
    what: What,
}

#[derive(Debug)]
enum What {
    Bars(Bars),
    Lines(Lines),
}

/// Groups of bars, in panels side by side that share their axis; each group has a bar a series.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) y: String,
    pub(crate) log: bool,
    pub(crate) series: Vec<String>,
    pub(crate) panels: Vec<Panel>,
}

#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) groups: Vec<Group>,
}

impl Panel {
    /// Puts a group into the panel of this title.
    pub(crate) fn add(panels: &mut Vec<Self>, title: &str, group: Group) {
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.groups.push(group),
            None => panels.push(Self { title: title.into(), groups: vec![group] }),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) label: String,
    pub(crate) bars: Vec<Option<Bar>>,
}

/// A bar, and the spread of its rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    value: f64,
    low: f64,
    high: f64,
}

impl Bar {
    pub(crate) fn of(median: &Median) -> Self {
        Self { value: median.value, low: median.low, high: median.high }
    }

    pub(crate) fn exact(value: f64) -> Self {
        Self { value, low: value, high: value }
    }
}

/// Lines over an axis of powers of ten.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) series: Vec<Line>,
}

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// `1000` is `1k`.
pub(crate) fn short(value: u64) -> String {
    match value {
        _ if value >= 1_000_000 && value % 1_000_000 == 0 => format!("{}M", value / 1_000_000),
        _ if value >= 1_000 && value % 1_000 == 0 => format!("{}k", value / 1_000),
        _ => value.to_string(),
    }
}

/// To be called once, before anything is drawn.
pub(crate) fn font() -> Result<()> {
    register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| anyhow!("the font can't be used"))
}

impl Plot {
    pub(crate) fn bars(name: String, title: String, bars: Bars) -> Self {
        Self { name, title, what: What::Bars(bars) }
    }

    pub(crate) fn lines(name: String, title: String, lines: Lines) -> Self {
        Self { name, title, what: What::Lines(lines) }
    }

    /// Writes `NAME.svg` and `NAME.png`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let (panels, groups, series) = match &self.what {
            What::Bars(bars) => {
                let groups = bars.panels.iter().map(|panel| panel.groups.len()).sum();
                (bars.panels.len(), groups, bars.series.len())
            }
            What::Lines(lines) => (1, 1, lines.series.len()),
        };
        ensure!(
            panels <= MOST_PANELS && groups <= MOST_GROUPS && series <= MOST_SERIES,
            "plot {}: {panels} panels with {groups} groups of {series} series are more than can be seen",
            self.name
        );
        let path = folder.join(format!("{}.svg", self.name));
        fs::write(&path, self.svg()?).with_context(|| format!("{}", path.display()))?;
        let path = folder.join(format!("{}.png", self.name));
        let file = File::create(&path).with_context(|| format!("{}", path.display()))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), SIZE.0, SIZE.1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels()?)?;
        writer.finish().with_context(|| format!("{}", path.display()))
    }

    fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(SVGBackend::with_string(&mut text, SIZE))?;
        Ok(text)
    }

    fn pixels(&self) -> Result<Vec<u8>> {
        let mut pixels = vec![0; 3 * SIZE.0 as usize * SIZE.1 as usize];
        self.draw(BitMapBackend::with_buffer(&mut pixels, SIZE))?;
        Ok(pixels)
    }

    fn draw<DB: DrawingBackend>(&self, backend: DB) -> Result<()> {
        self.picture(backend).map_err(|error| anyhow!("plot {}: {error}", self.name))
    }

    fn picture<DB: DrawingBackend>(&self, backend: DB) -> Drawn<DB> {
        let root = backend.into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(64);
        let title = (FONT, TITLE).into_font().color(&BLACK);
        head.draw(&Text::new(self.title.clone(), (14, 8), title))?;
        match &self.what {
            What::Bars(bars) => {
                let colours: Vec<_> = (0..bars.series.len()).map(|i| colour(&bars.series[i], i)).collect();
                legend(&head, bars.series.iter().map(String::as_str).zip(colours.iter().copied()))?;
                draw_bars(&root, &body, bars, &colours)?;
            }
            What::Lines(lines) => {
                let colours: Vec<_> = (0..lines.series.len()).map(|i| PALETTE[i % PALETTE.len()]).collect();
                legend(
                    &head,
                    lines.series.iter().map(|line| line.name.as_str()).zip(colours.iter().copied()),
                )?;
                draw_lines(&body, lines, &colours)?;
            }
        }
        root.present()
    }
}

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

const PALETTE: [RGBColor; 8] = [
    RGBColor(0x1f, 0x6f, 0xb4),
    RGBColor(0xd9, 0x82, 0x2b),
    RGBColor(0x3a, 0x92, 0x3a),
    RGBColor(0xb0, 0x3a, 0x5b),
    RGBColor(0x7b, 0x5f, 0xb0),
    RGBColor(0x6b, 0x4a, 0x3a),
    RGBColor(0x2a, 0x9d, 0xa8),
    RGBColor(0x80, 0x80, 0x80),
];

/// A subject has the same colour in every plot.
fn colour(series: &str, number: usize) -> RGBColor {
    match series {
        "weft" => PALETTE[0],
        "ovs-dpdk" => PALETTE[1],
        "testpmd-io" => RGBColor(0x8a, 0x93, 0x9b),
        "testpmd-mac" => RGBColor(0xbc, 0xc5, 0xcc),
        _ => PALETTE[number % PALETTE.len()],
    }
}

fn text(colour: &RGBColor) -> TextStyle<'static> {
    (FONT, TEXT).into_font().color(colour)
}

/// A patch of its colour and its name for each series, in a row under the title.
fn legend<'a, DB: DrawingBackend>(
    head: &DrawingArea<DB, Shift>,
    series: impl Iterator<Item = (&'a str, RGBColor)>,
) -> Drawn<DB> {
    let mut x = 14;
    for (name, colour) in series {
        head.draw(&Rectangle::new([(x, 38), (x + 12, 50)], colour.filled()))?;
        let style = text(&BLACK);
        let (width, _) = head.estimate_text_size(name, &style)?;
        head.draw(&Text::new(name.to_string(), (x + 18, 36), style))?;
        x += 18 + width as i32 + 22;
    }
    Ok(())
}

/// Whole powers of ten around what is to be seen.
fn decades(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| *v > 0.0)
        .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), v| (low.min(v), high.max(v)));
    let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
    let (from, to) = (low.log10().floor(), high.log10().ceil());
    (10f64.powf(from), 10f64.powf(to.max(from + 1.0)))
}

fn draw_bars<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    body: &DrawingArea<DB, Shift>,
    bars: &Bars,
    colours: &[RGBColor],
) -> Drawn<DB> {
    let all =
        || bars.panels.iter().flat_map(|panel| &panel.groups).flat_map(|group| group.bars.iter().flatten());
    let top = all().map(|bar| bar.high).fold(0.0, f64::max);
    // Panels are as wide as what is in them.
    let groups: usize = bars.panels.iter().map(|panel| panel.groups.len()).sum();
    let mut rest = body.clone();
    let mut left = groups;
    for (number, panel) in bars.panels.iter().enumerate() {
        let margin = if number == 0 { 64 } else { 14 };
        let (width, _) = rest.dim_in_pixel();
        let own = panel.groups.len();
        let (area, more) = rest.split_horizontally(width * own as u32 / left.max(1) as u32);
        (rest, left) = (more, left - own);
        let mut builder = ChartBuilder::on(&area);
        builder
            .caption(&panel.title, (FONT, TEXT).into_font().color(&BLACK))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(margin);
        let across = 0.0..own as f64;
        if bars.log {
            let (low, high) = decades(all().flat_map(|bar| [bar.value, bar.high]));
            // The lowest bar has a body too.
            let low = low / 10.0;
            let mut chart = builder.build_cartesian_2d(across, (low..high).log_scale())?;
            panel_of(root, &mut chart, bars, panel, colours, number == 0, low)?;
        } else {
            let mut chart = builder.build_cartesian_2d(across, 0.0..(top * 1.05).max(f64::MIN_POSITIVE))?;
            panel_of(root, &mut chart, bars, panel, colours, number == 0, 0.0)?;
        }
    }
    Ok(())
}

fn panel_of<DB: DrawingBackend, Y>(
    root: &DrawingArea<DB, Shift>,
    chart: &mut ChartContext<'_, DB, Cartesian2d<RangedCoordf64, Y>>,
    bars: &Bars,
    panel: &Panel,
    colours: &[RGBColor],
    first: bool,
    floor: f64,
) -> Drawn<DB>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let tick = |value: &f64| if first { crate::markdown::number(*value) } else { String::new() };
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh().x_labels(0).y_labels(8).label_style(text(&BLACK)).y_label_formatter(&tick);
    mesh.light_line_style(WHITE).bold_line_style(RGBColor(0xdd, 0xdd, 0xdd));
    if first {
        mesh.y_desc(&bars.y);
    }
    mesh.draw()?;
    // A group takes most of its share of the width.
    let width = 0.8 / bars.series.len().max(1) as f64;
    for (number, colour) in colours.iter().enumerate() {
        let seen = panel.groups.iter().enumerate().filter_map(|(group, of)| {
            let bar = of.bars.get(number).copied().flatten()?;
            Some((group as f64 + 0.1 + number as f64 * width, bar))
        });
        let seen: Vec<_> = seen.collect();
        chart.draw_series(seen.iter().map(|(x, bar)| {
            Rectangle::new([(*x, floor), (x + width * 0.92, bar.value.max(floor))], colour.filled())
        }))?;
        let spread = seen.iter().filter(|(_, bar)| bar.high > bar.low);
        chart.draw_series(spread.map(|(x, bar)| {
            let middle = x + width * 0.46;
            PathElement::new([(middle, bar.low.max(floor)), (middle, bar.high)], BLACK)
        }))?;
    }
    for (number, group) in panel.groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(number as f64 + 0.5, floor));
        let style = text(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(group.label.clone(), (x, y + 8), style))?;
    }
    Ok(())
}

fn draw_lines<DB: DrawingBackend>(
    body: &DrawingArea<DB, Shift>,
    lines: &Lines,
    colours: &[RGBColor],
) -> Drawn<DB> {
    let points = || lines.series.iter().flat_map(|line| &line.points);
    let (from, to) = decades(points().map(|(x, _)| *x));
    let top = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(body)
        .margin(8)
        .margin_right(30)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((from..to).log_scale(), 0.0..top * 1.05)?;
    let size = |value: &f64| short(*value as u64);
    let cost = |value: &f64| crate::markdown::number(*value);
    chart
        .configure_mesh()
        .label_style(text(&BLACK))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(0xdd, 0xdd, 0xdd))
        .x_desc(&lines.x)
        .y_desc(&lines.y)
        .x_labels(8)
        .x_label_formatter(&size)
        .y_label_formatter(&cost)
        .draw()?;
    for (line, colour) in lines.series.iter().zip(colours) {
        let style = colour.stroke_width(2);
        chart.draw_series(std::iter::once(PathElement::new(line.points.clone(), style)))?;
        chart.draw_series(line.points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_of_powers_of_ten_holds_everything() {
        for (values, bounds) in [
            (vec![3.0, 40.0], (1.0, 100.0)),
            (vec![10.0], (10.0, 100.0)),
            (vec![0.0, 0.02], (0.01, 0.1)),
            (vec![], (1.0, 10.0)),
        ] {
            let (low, high) = decades(values.iter().copied());
            assert!(
                (low / bounds.0 - 1.0).abs() < 1e-9 && (high / bounds.1 - 1.0).abs() < 1e-9,
                "{values:?}"
            );
        }
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [1, 250, 1_000, 1_500, 100_000, 1_000_000].map(short),
            ["1", "250", "1k", "1500", "100k", "1M"]
        );
    }
}
