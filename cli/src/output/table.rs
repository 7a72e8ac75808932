//! Tables that fit the terminal, and blocks of names and values. Pure: makes text, prints nothing.
//! Called by the commands that show lists and details.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table as Comfy, presets};
use console::Style;
use trainyard_proto::v1;

use super::Screen;

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lean {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    inner: Comfy,
    leans: Vec<Lean>,
    colour: bool,
}

impl Table {
    /// A table with these columns for this screen.
    pub(crate) fn new(screen: &Screen, columns: &[(&str, Lean)]) -> Self {
        let mut inner = Comfy::new();
        inner
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(screen.width);
        if screen.colour {
            inner.enforce_styling();
        } else {
            inner.force_no_tty();
        }
        let leans: Vec<_> = columns.iter().map(|(_, lean)| *lean).collect();
        inner.set_header(columns.iter().map(|(name, lean)| aligned(name, *lean)));
        Self {
            inner,
            leans,
            colour: screen.colour,
        }
    }

    /// Adds a row; a cell that is the name of a state gets its colour.
    pub(crate) fn row(&mut self, cells: &[String]) {
        let cells: Vec<_> = cells
            .iter()
            .zip(&self.leans)
            .map(|(text, lean)| {
                let cell = aligned(text, *lean);
                match state_colour(text) {
                    Some(colour) if self.colour => cell.fg(colour),
                    _ => cell,
                }
            })
            .collect();
        self.inner.add_row(cells);
    }

    /// The text, without blanks at the ends of lines.
    pub(crate) fn render(&self) -> String {
        let lines: Vec<_> = self.inner.lines().map(|line| trimmed(&line)).collect();
        lines.join("\n")
    }
}

/// Every line starts with the padding of its first column.
fn trimmed(line: &str) -> String {
    line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()
}

fn aligned(text: &str, lean: Lean) -> Cell {
    Cell::new(text).set_alignment(match lean {
        Lean::Left => CellAlignment::Left,
        Lean::Right => CellAlignment::Right,
    })
}

fn state_colour(text: &str) -> Option<Color> {
    match text {
        "completed" | "ready" => Some(Color::Green),
        "running" | "finishing" => Some(Color::Cyan),
        "starting" | "suspect" | "draining" | "vacating" | "drained" | "full" => {
            Some(Color::Yellow)
        }
        "failed" | "lost" => Some(Color::Red),
        _ => None,
    }
}

/// The style of a job's state outside tables.
pub(crate) fn state_style(state: v1::JobState) -> Style {
    match state {
        v1::JobState::Completed => Style::new().green(),
        v1::JobState::Failed => Style::new().red(),
        v1::JobState::Running | v1::JobState::Finishing => Style::new().cyan(),
        v1::JobState::Starting | v1::JobState::Cancelled => Style::new().yellow(),
        v1::JobState::Unspecified | v1::JobState::Pending | v1::JobState::Queued => Style::new(),
    }
}

/// Names and values, one a line; empty values are left out, further lines of a value are indented.
#[derive(Debug, Default)]
pub(crate) struct Block {
    rows: Vec<(String, String)>,
}

impl Block {
    /// Adds a value unless it is empty.
    pub(crate) fn add(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        let value = value.into();
        if !value.is_empty() {
            self.rows.push((name.to_owned(), value));
        }
        self
    }

    /// The text.
    pub(crate) fn render(&self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or(0) + 2;
        let mut text = String::new();
        for (name, value) in &self.rows {
            for (index, line) in value.lines().enumerate() {
                let name = if index == 0 { name.as_str() } else { "" };
                text.push_str(format!("{name:<width$}{line}").trim_end());
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(width: u16, colour: bool) -> Screen {
        Screen {
            json: false,
            terminal: false,
            colour,
            width,
        }
    }

    fn filled(screen: &Screen) -> String {
        let columns = [
            ("ID", Lean::Right),
            ("NAME", Lean::Left),
            ("STATE", Lean::Left),
        ];
        let mut table = Table::new(screen, &columns);
        let long = "a name that goes on and on and on and on until it is far too long";
        table.row(&["7".into(), "short".into(), "failed".into()]);
        table.row(&["1234".into(), long.into(), "queued".into()]);
        table.render()
    }

    #[test]
    fn a_table_never_exceeds_the_width_and_loses_no_word() {
        for width in [30, 40, 80] {
            let text = filled(&screen(width, false));
            let longest = text.lines().map(|line| line.chars().count()).max();
            assert!(longest.unwrap() <= usize::from(width), "{width}:\n{text}");
            assert!(text.contains("goes") && text.contains("long"), "{text}");
        }
    }

    #[test]
    fn numbers_lean_right() {
        let text = filled(&screen(80, false));
        let rows: Vec<_> = text.lines().collect();
        assert!(rows[0].starts_with("  ID  NAME"), "{text}");
        assert!(rows[1].starts_with("   7  short"), "{text}");
        assert!(rows[2].starts_with("1234  a name"), "{text}");
    }

    #[test]
    fn states_are_coloured_only_where_colours_are_welcome() {
        assert!(!filled(&screen(80, false)).contains('\u{1b}'));
        assert!(filled(&screen(80, true)).contains("\u{1b}["));
    }

    #[test]
    fn a_block_aligns_values_and_leaves_out_what_is_empty() {
        let mut block = Block::default();
        block.add("job", "7").add("reason", "").add("lines", "a\nb");
        assert_eq!(block.render(), "job    7\nlines  a\n       b\n");
    }
}
