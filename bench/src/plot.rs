//! Pictures of what was measured, as SVG.

use std::path::Path;

use plotters::prelude::*;

/// Lines over one pair of axes.
pub struct Plot {
    /// Of what it is.
    pub scenario: &'static str,
    /// The file's name, without its ending.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// What the axes say.
    pub axes: [&'static str; 2],
    /// The lines, by what the legend says.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

const SIZE: (u32, u32) = (720, 400);
/// Colours that can be told apart by people who see few.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
];

impl Plot {
    /// Writes it into this folder.
    pub fn write(&self, folder: &Path) {
        let path = folder.join(format!("{}.svg", self.name));
        self.draw(&path).unwrap_or_else(|error| panic!("{} cannot be drawn: {error}", path.display()));
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max) * 1.08;
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, ("sans-serif", 18))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..most(|point| point.0), 0.0..most(|point| point.1))?;
        let number = |number: &f64| format!("{number}");
        let mut mesh = chart.configure_mesh();
        mesh.x_label_formatter(&number).y_label_formatter(&number).light_line_style(WHITE);
        mesh.x_desc(self.axes[0]).y_desc(self.axes[1]).draw()?;
        for ((name, points), colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            line.label(name).legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
            if points.len() < 20 {
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
            }
        }
        let legend = SeriesLabelPosition::LowerRight;
        chart.configure_series_labels().position(legend).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        root.present()?;
        Ok(())
    }
}
