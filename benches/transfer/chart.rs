//! The goals as a picture: a bar for each, as long as the goal is reached, with marks at goal and minimum.

use std::fmt::Write;

use crate::goals::Goal;
use crate::report::short;

const WIDTH: f64 = 1000.0;
const ROW: f64 = 22.0;
const TOP: f64 = 64.0;
/// Where bars begin, and how long one is that just reaches its goal.
const LEFT: f64 = 400.0;
const GOAL: f64 = 250.0;
const LONGEST: f64 = 370.0;
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2933}.title{font-size:15px;font-weight:600}\
    .small{font-size:10px;fill:#52606d}.reached{fill:#2f855a}.near{fill:#b7791f}.missed{fill:#c53030}";

pub fn draw(goals: &[Goal], titles: &[String; 2]) -> String {
    let height = TOP + ROW * goals.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    text(&mut svg, 16.0, 24.0, "title", &titles[0]);
    text(&mut svg, 16.0, 42.0, "small", &titles[1]);
    for (row, goal) in goals.iter().enumerate() {
        draw_row(&mut svg, TOP + ROW * row as f64, goal);
    }
    let bottom = TOP + ROW * goals.len() as f64;
    line(&mut svg, LEFT + GOAL, TOP - 6.0, bottom + 2.0, "stroke=\"#1f2933\"");
    text(&mut svg, LEFT + GOAL - 12.0, bottom + 16.0, "small", "goal");
    text(
        &mut svg,
        16.0,
        bottom + 16.0,
        "small",
        "bar: share of the goal that was reached; dashed: the limit that holds for every run",
    );
    svg += "</svg>\n";
    svg
}

fn draw_row(svg: &mut String, top: f64, goal: &Goal) {
    let share = goal.share(goal.seen);
    let limit = goal.limit.map(|limit| goal.share(limit));
    let class = match share {
        share if share >= 1.0 => "reached",
        share if share >= limit.unwrap_or(1.0) => "near",
        _ => "missed",
    };
    let len = (share * GOAL).clamp(1.0, LONGEST);
    text(svg, 16.0, top + 13.0, "name", &goal.what);
    // Writing to a String cannot fail.
    let _ =
        writeln!(svg, "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{len:.1}\" height=\"16\" rx=\"2\"/>");
    if let Some(limit) = limit {
        line(svg, LEFT + limit * GOAL, top - 1.0, top + 17.0, "stroke=\"#1f2933\" stroke-dasharray=\"3 2\"");
    }
    text(svg, LEFT + LONGEST + 12.0, top + 13.0, "value", &format!("{}; wanted {}", short(goal.seen), goal.wanted()));
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{content}</text>");
}

fn line(svg: &mut String, x: f64, from: f64, to: f64, style: &str) {
    let _ = writeln!(svg, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\" {style}/>");
}
