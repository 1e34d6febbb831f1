//! Columns that line up: Go's `text/tabwriter`. A cell ends at a tab; cells above each other form a column as long as no line
//! between lacks it; the last cell of a line belongs to no column.

/// Lays lines of cells out. A column is at least `minimum` wide, its widest cell and `padding` together.
pub fn layout(text: &str, minimum: usize, padding: usize) -> String {
    let ended = text.ends_with('\n');
    let body = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<Vec<&str>> = body.split('\n').map(|l| l.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|l| vec![0; l.len().saturating_sub(1)]).collect();
    column(&lines, &mut widths, 0..lines.len(), 0, minimum, padding);
    let mut out = String::new();
    for (i, (line, widths)) in lines.iter().zip(&widths).enumerate() {
        for (cell, width) in line.iter().zip(widths.iter().map(Some).chain(std::iter::once(None))) {
            out.push_str(cell);
            if let Some(width) = width {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        if i + 1 < lines.len() || ended {
            out.push('\n');
        }
    }
    out
}

/// Finds the blocks of one column among the lines, and those of the next within each of them.
fn column(lines: &[Vec<&str>], widths: &mut [Vec<usize>], range: std::ops::Range<usize>, at: usize, minimum: usize, padding: usize) {
    let mut row = range.start;
    while row < range.end {
        if lines[row].len() <= at + 1 {
            row += 1;
            continue;
        }
        let start = row;
        let mut width = minimum;
        let mut discardable = true;
        while row < range.end && lines[row].len() > at + 1 {
            let cell = lines[row][at].chars().count();
            width = width.max(cell + padding);
            discardable &= cell == 0;
            row += 1;
        }
        let width = if discardable && minimum == 0 && padding == 0 { 0 } else { width };
        (start..row).for_each(|r| widths[r][at] = width);
        column(lines, widths, start..row, at + 1, minimum, padding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_end_where_a_line_lacks_them() {
        assert_eq!(layout("Name:\tx\nLong name:\ty\n", 0, 2), "Name:       x\nLong name:  y\n");
        assert_eq!(layout("a\tb\nplain\nlonger\tc\n", 0, 2), "a  b\nplain\nlonger  c\n");
        assert_eq!(layout("A\tB\n1\t2\n", 6, 3), "A     B\n1     2\n");
        assert_eq!(layout("a\tb\tc\naa\tbbb\n", 0, 1), "a  b c\naa bbb\n");
    }
}
