//! The tables of a document.

/// A table: its head and its rows, by cell.
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// All tables of a text in Markdown.
pub struct Document {
    pub tables: Vec<Table>,
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

impl Document {
    pub fn parse(text: &str) -> Self {
        let mut tables: Vec<Table> = Vec::new();
        let mut is_in_table = false;
        for line in text.lines() {
            if !line.starts_with('|') {
                is_in_table = false;
            } else if !is_in_table {
                is_in_table = true;
                tables.push(Table { head: cells(line), rows: Vec::new() });
            } else if let (false, Some(table)) = (line.starts_with("|---"), tables.last_mut()) {
                table.rows.push(cells(line));
            }
        }
        Self { tables }
    }

    /// The table whose head has `name` in `column`, below whatever else.
    pub fn table(&self, column: usize, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.head.get(column).is_some_and(|cell| cell == name))
    }
}
