//! Just enough of Rust's grammar to tell code from comments and literals, and to find functions.

/// The text with comments and the insides of literals blanked out; lines stay where they are.
pub fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_in_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !is_in_word) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            0
        };
        if skipped == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            let (blank, after) = rest.split_at(skipped);
            out.extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }
    out
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    loop {
        let rest = &text.as_bytes()[at..];
        match rest {
            [] => return text.len(),
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
}

/// The length of a raw string literal that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let start = ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    let inside = start[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let before = text.len() - inside.len();
    Some(inside.find(&end).map_or(text.len(), |at| before + at + end.len()))
}

fn quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == '\\' {
            characters.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Whether a quote begins a character, not a lifetime.
fn is_character(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    characters.next().is_some_and(|c| c == '\\') || characters.next() == Some('\'')
}

/// A function with a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    pub name: String,
    /// Of the word `fn`, from 1.
    pub line: usize,
    /// From that line to that of the closing brace.
    pub lines: usize,
}

/// All functions with bodies in code without comments and literals, those inside others included.
pub fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let after = &code[at + 3..];
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !is_word || name.is_empty() {
            continue;
        }
        let Some(length) = body_end(after) else { continue };
        let line = code[..at].matches('\n').count() + 1;
        found.push(Function { name, line, lines: after[..length].matches('\n').count() + 1 });
    }
    found
}

/// Where the body ends that follows a signature; nothing for a declaration without one.
fn body_end(signature: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (at, c) in signature.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_become_blank() {
        let code = "a /* x /* y */ z */ b // c\n\"s\\\"t\" r#\"u\"v\"# 'w' '\\'' br\"x\" &'a str for\"q\"";
        let blanked = without_comments_and_literals(code);
        assert_eq!(blanked.split_whitespace().collect::<Vec<_>>(), ["a", "b", "&'a", "str", "for"]);
        assert_eq!(blanked.lines().count(), 2);
    }

    #[test]
    fn functions_are_found_with_their_lengths() {
        let code = "trait T { fn a(x: [u8; 3]); fn b() {} }\nfn c(f: fn(u8) -> u8) {\n    fn d() {\n    }\n}\n";
        let lengths: Vec<(String, usize, usize)> =
            functions(code).into_iter().map(|f| (f.name, f.line, f.lines)).collect();
        assert_eq!(lengths, [("b".into(), 1, 1), ("c".into(), 2, 4), ("d".into(), 3, 2)]);
    }
}
