//! machines.csv: one slave a line, `ip,mac[,link[,name[,memory]]]`.
//!
//! On a UDP link the ip is where the slave is reached, and the mac may be empty: then the client asks for it. Blank
//! lines and `#` comments are skipped, a header line with the columns' names may come first, and a field that
//! contains a comma (a `vdev:` link with arguments) stands in double quotes.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use crate::{
    port::MacAddr,
    station::spec::{LinkSpec, LinkSpecError, is_one_host},
    units::parse_bytes,
};

const COLUMNS: [&str; 5] = ["ip", "mac", "link", "name", "memory"];
const LINE_FORM: &str = "ip,mac[,link[,name[,memory]]]";

/// How often pages are stored: a minority of so many may be lost.
pub const REPLICATION_FACTORS: [usize; 3] = [1, 3, 5];
/// What a comment line starts with that says how often.
const RF: &str = "rf=";

/// A slave, as a line of machines.csv names it: `ip,mac[,link[,name[,memory]]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// First column: on a UDP link the slave's IPv4 address; else not interpreted beyond being an address.
    pub ip: String,
    /// Second column; zero if it is empty, as it may be on a UDP link: then the slave is asked for by ARP.
    pub mac: MacAddr,
    /// Third column: how the client reaches it.
    pub link: LinkSpec,
    /// Fourth column.
    pub name: Option<String>,
    /// Fifth column: its capacity in bytes, for information.
    pub memory_bytes: Option<u64>,
}

/// What is wrong with machines.csv; one line that names file, line and column.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MachinesError {
    /// The file cannot be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A line is wrong.
    #[error("{path}:{line}:{column}: {what}; expected {expected}")]
    Line {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column of the field's first character, from 1.
        column: usize,
        /// What stands there.
        what: String,
        /// What should.
        expected: String,
    },
}

/// All that machines.csv says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machines {
    /// The slaves.
    pub slaves: Vec<Machine>,
    /// How many of them keep each page; 1 if the file says nothing.
    pub replication_factor: usize,
}

impl Machines {
    /// Reads machines.csv. Lines without a link column get `default_link`.
    ///
    /// # Errors
    /// For the first thing that is wrong.
    pub fn read(path: &Path, default_link: Option<&LinkSpec>) -> Result<Self, MachinesError> {
        let shown = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| MachinesError::Unreadable {
            path: shown.clone(),
            why: format!("cannot read machines.csv: {error}; write one `ip,mac,link` a line, one line a slave"),
        })?;
        let slaves = parse_machines(&shown, &bytes, default_link)?;
        let replication_factor = parse_replication_factor(&shown, &bytes, slaves.len())?;
        Ok(Self { slaves, replication_factor })
    }
}

/// The number in a comment line `# rf=3`; 1 if there is none.
///
/// # Errors
/// [`MachinesError::Line`] if it is not one of [`REPLICATION_FACTORS`], or more than there are slaves.
pub fn parse_replication_factor(path: &str, bytes: &[u8], slaves: usize) -> Result<usize, MachinesError> {
    let text = utf8(path, bytes)?;
    for (index, content) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let Some(comment) = content.trim_start().strip_prefix('#') else { continue };
        let Some(number) = comment.trim_start().strip_prefix(RF) else { continue };
        let line = Line { path, number: index + 1 };
        let column = content.find(RF).map_or(1, |at| content[..at].chars().count() + 1);
        let factor = number.trim().parse().ok().filter(|factor| REPLICATION_FACTORS.contains(factor));
        let factor = factor.ok_or_else(|| {
            line.error(column, format!("{:?} is no replication factor", number.trim()), "rf=1, rf=3 or rf=5")
        })?;
        if factor > slaves {
            let what = format!("{factor} slaves are to keep each page, and there are {slaves}");
            return Err(line.error(column, what, "as many slaves as the replication factor, or more"));
        }
        return Ok(factor);
    }
    Ok(1)
}

/// Reads the text of machines.csv; `path` is only for messages. Lines without a link column get `default_link`.
///
/// # Errors
/// [`MachinesError::Line`] for the first thing that is wrong, with its line and column.
pub fn parse_machines(
    path: &str,
    bytes: &[u8],
    default_link: Option<&LinkSpec>,
) -> Result<Vec<Machine>, MachinesError> {
    let text = utf8(path, bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut machines: Vec<(usize, Machine)> = Vec::new();
    let mut is_first = true;
    for (index, content) in text.lines().enumerate() {
        let line = Line { path, number: index + 1 };
        let fields = line.fields(content)?;
        if fields.is_empty() {
            continue;
        }
        if std::mem::take(&mut is_first) && fields[0].text.eq_ignore_ascii_case(COLUMNS[0]) {
            line.check_header(&fields)?;
            continue;
        }
        let machine = line.machine(&fields, default_link)?;
        if let Some((earlier, _)) = machines.iter().find(|(_, other)| same_slave(other, &machine)) {
            let who = if machine.link.is_udp() { machine.ip.clone() } else { machine.mac.to_string() };
            let what = format!("the slave {who} at {} stands on line {earlier} already", machine.link);
            return Err(line.error(fields[0].column, what, "each slave once"));
        }
        machines.push((line.number, machine));
    }
    if machines.is_empty() {
        let line = Line { path, number: text.lines().count().max(1) };
        return Err(line.error(1, "no slave is named".into(), format!("at least one line {LINE_FORM}")));
    }
    Ok(machines.into_iter().map(|(_, machine)| machine).collect())
}

/// On Ethernet a slave is a hardware address behind a port, or, with UDP, an IP address: several may be behind one
/// router. On a vhost-user socket it is the socket.
fn same_slave(a: &Machine, b: &Machine) -> bool {
    let same_address = if a.link.is_udp() { a.ip == b.ip } else { a.mac == b.mac };
    a.link.port == b.link.port && (same_address || a.link.is_point_to_point())
}

fn utf8<'a>(path: &str, bytes: &'a [u8]) -> Result<&'a str, MachinesError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
        let number = good.matches('\n').count() + 1;
        let column = good.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
        let what = format!("the byte {:#04x} is not UTF-8", bytes[error.valid_up_to()]);
        Line { path, number }.error(column, what, "text")
    })
}

/// One field and the column of its first character, from 1.
struct Field {
    text: String,
    column: usize,
}

#[derive(Clone, Copy)]
struct Line<'a> {
    path: &'a str,
    number: usize,
}

impl Line<'_> {
    fn error(&self, column: usize, what: String, expected: impl Into<String>) -> MachinesError {
        MachinesError::Line { path: self.path.to_owned(), line: self.number, column, what, expected: expected.into() }
    }

    /// The fields without the spaces around them; none for a blank or comment line.
    fn fields(&self, content: &str) -> Result<Vec<Field>, MachinesError> {
        let mut fields = Vec::new();
        let mut rest = content.chars().zip(1..).peekable();
        loop {
            while rest.next_if(|(c, _)| c.is_whitespace()).is_some() {}
            let column = rest.peek().map_or(content.chars().count() + 1, |(_, column)| *column);
            if fields.is_empty() && rest.peek().is_none_or(|(c, _)| *c == '#') {
                return Ok(fields);
            }
            let mut text = String::new();
            if rest.next_if(|(c, _)| *c == '"').is_some() {
                loop {
                    match rest.next() {
                        Some(('"', _)) if rest.next_if(|(c, _)| *c == '"').is_none() => break,
                        Some((c, _)) => text.push(c),
                        None => return Err(self.error(column, "a quoted field without an end".into(), "a closing \"")),
                    }
                }
                while rest.next_if(|(c, _)| c.is_whitespace()).is_some() {}
            } else {
                while let Some((c, _)) = rest.next_if(|(c, _)| *c != ',') {
                    if c == '#' && text.ends_with(char::is_whitespace) {
                        rest.by_ref().for_each(drop);
                        break;
                    }
                    text.push(c);
                }
                text.truncate(text.trim_end().len());
            }
            fields.push(Field { text, column });
            match rest.next() {
                Some((',', _)) => {}
                None | Some(('#', _)) => return Ok(fields),
                Some((c, column)) => return Err(self.error(column, format!("{c:?} after a quoted field"), "a comma")),
            }
        }
    }

    fn check_header(&self, fields: &[Field]) -> Result<(), MachinesError> {
        for (index, field) in fields.iter().enumerate() {
            match COLUMNS.get(index) {
                Some(name) if field.text.eq_ignore_ascii_case(name) => {}
                _ => {
                    let what = format!("the header names column {} {:?}", index + 1, field.text);
                    return Err(self.error(field.column, what, format!("the columns {LINE_FORM}")));
                }
            }
        }
        Ok(())
    }

    fn machine(&self, fields: &[Field], default_link: Option<&LinkSpec>) -> Result<Machine, MachinesError> {
        if let Some(extra) = fields.get(COLUMNS.len()) {
            return Err(self.error(extra.column, format!("a sixth column {:?}", extra.text), LINE_FORM));
        }
        let field = |index: usize| fields.get(index).filter(|field| !field.text.is_empty());
        let ip = &fields[0];
        if ip.text.parse::<IpAddr>().is_err() {
            return Err(self.error(ip.column, format!("{:?} is no IP address", ip.text), "one such as 10.0.0.1"));
        }
        let mac_field = fields.get(1).ok_or_else(|| {
            let end = ip.column + ip.text.chars().count();
            self.error(end, "the column mac is missing".into(), LINE_FORM)
        })?;
        let link = match (field(2), default_link) {
            (Some(field), _) => field.text.parse().map_err(|error: LinkSpecError| {
                // The message of the error is one clause already: "unknown link …: expected …".
                let text = error.to_string();
                let (what, expected) = text.split_once(": expected ").unwrap_or((&text, "a link"));
                self.error(field.column, what.to_owned(), expected)
            })?,
            (None, Some(link)) => link.clone(),
            (None, None) => {
                let end = mac_field.column + mac_field.text.chars().count();
                let expected = "a third column such as vhost:/run/rum/0, or RUM_PORT=af_packet:IFACE in the environment \
                                to name this machine's own port";
                return Err(self.error(end, format!("the slave {} has no link", ip.text), expected));
            }
        };
        let mac = self.mac(mac_field, &link)?;
        if link.is_udp() && !ip.text.parse::<Ipv4Addr>().is_ok_and(is_one_host) {
            let what = format!("{:?} is no IPv4 address of a host", ip.text);
            return Err(self.error(ip.column, what, format!("the slave's own, for the link {link}")));
        }
        let memory_bytes = match field(4) {
            None => None,
            Some(field) => Some(parse_bytes(&field.text).ok_or_else(|| {
                self.error(field.column, format!("{:?} is no size", field.text), "one such as 512M or 1.5G")
            })?),
        };
        Ok(Machine { ip: ip.text.clone(), mac, link, name: field(3).map(|field| field.text.clone()), memory_bytes })
    }

    /// The slave's hardware address; zero where it is to be asked for.
    fn mac(&self, field: &Field, link: &LinkSpec) -> Result<MacAddr, MachinesError> {
        if link.is_udp() && field.text.is_empty() {
            return Ok(MacAddr::default());
        }
        let mac = parse_mac(&field.text)
            .map_err(|what| self.error(field.column, what, "a hardware address such as 02:00:00:00:00:01"))?;
        if mac == MacAddr::default() && !link.is_udp() && !link.is_point_to_point() {
            let what = format!("{mac} is nobody's hardware address");
            return Err(self.error(field.column, what, format!("the slave's own, for the link {link}")));
        }
        Ok(mac)
    }
}

/// A hardware address such as 02:00:00:00:00:01.
///
/// # Errors
/// What is wrong with it.
pub fn parse_mac(text: &str) -> Result<MacAddr, String> {
    let wrong = || format!("{text:?} is no hardware address");
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut bytes = [0u8; 6];
    let mut parts = text.split(separator);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(wrong)?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if bytes[0] & 1 != 0 {
        return Err(format!("{text:?} is a group address, not one machine's"));
    }
    Ok(MacAddr(bytes))
}

#[cfg(test)]
mod tests {
    use crate::port::spec::PortSpec;

    use super::*;

    fn parse(text: &str) -> Result<Vec<Machine>, MachinesError> {
        parse_machines("machines.csv", text.as_bytes(), None)
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn all_columns() {
        let machines = parse("10.0.0.1, 02-AA-00-00-00-01 ,vhost:/run/rum/0,left,1.5G\n").unwrap();
        let expected = Machine {
            ip: "10.0.0.1".into(),
            mac: MacAddr([2, 0xaa, 0, 0, 0, 1]),
            link: PortSpec::Vhost("/run/rum/0".into()).into(),
            name: Some("left".into()),
            memory_bytes: Some(3 << 29),
        };
        assert_eq!(machines, [expected]);
    }

    #[test]
    fn comments_header_blank_lines_and_line_ends() {
        let text = "\u{feff}# rf=1\r\n\r\n  IP,Mac,link\r\n  # two\r\n::1,02:00:00:00:00:01,vhost:/a # left\r\n\
                    10.0.0.2,02:00:00:00:00:02,vhost:/b#1,,";
        let machines = parse(text).unwrap();
        assert_eq!(machines.len(), 2);
        assert_eq!(machines[0].link, PortSpec::Vhost("/a".into()).into());
        assert_eq!(machines[1].link, PortSpec::Vhost("/b#1".into()).into());
        assert_eq!((machines[1].name.as_deref(), machines[1].memory_bytes), (None, None));
    }

    #[test]
    fn the_replication_factor_stands_in_a_comment() {
        let factor = |text: &str| parse_replication_factor("m", text.as_bytes(), 3).map_err(|error| error.to_string());
        assert_eq!(factor("::1,02:00:00:00:00:01\n"), Ok(1));
        assert_eq!(factor("ip,mac\n# three of them: rf=5\n#  rf=3 \n"), Ok(3));
        assert_eq!(factor("\u{feff}# rf=1\r\n# rf=3"), Ok(1));
        let wrong = factor("\n # rf=2").unwrap_err();
        assert_eq!(wrong, "m:2:4: \"2\" is no replication factor; expected rf=1, rf=3 or rf=5");
        let many = factor("# rf=5").unwrap_err();
        assert!(many.starts_with("m:1:3: 5 slaves are to keep each page, and there are 3; expected"), "{many}");
    }

    #[test]
    fn quoted_fields_may_hold_commas() {
        let machines = parse("::1,02:00:00:00:00:01,\"vdev:net_ring0,a=\"\"1\"\"\" , x\n").unwrap();
        assert_eq!(machines[0].link, PortSpec::Vdev("net_ring0,a=\"1\"".into()).into());
        assert_eq!(machines[0].name.as_deref(), Some("x"));
    }

    #[test]
    fn the_link_may_come_from_outside() {
        let port = LinkSpec::from(PortSpec::AfPacket("eth1".into()));
        let text = b"10.0.0.1,02:00:00:00:00:01\n10.0.0.2,02:00:00:00:00:02,,b\n10.0.0.3,02:00:00:00:00:03,vhost:/c\n";
        let machines = parse_machines("m", text, Some(&port)).unwrap();
        assert_eq!(machines[0].link, port);
        assert_eq!(machines[1].link, port);
        assert_eq!(machines[2].link, PortSpec::Vhost("/c".into()).into());
    }

    #[test]
    fn each_mistake_is_named_with_line_and_column() {
        let cases = [
            ("", "machines.csv:1:1: no slave is named; expected at least one line ip,mac"),
            ("# only\n\n", "machines.csv:2:1: no slave is named;"),
            ("ip,mac\n", "machines.csv:1:1: no slave is named;"),
            ("ip,address\n", "machines.csv:1:4: the header names column 2 \"address\"; expected the columns ip,mac"),
            ("\nnonsense\n", "machines.csv:2:1: \"nonsense\" is no IP address; expected one such as"),
            (",02:00:00:00:00:01,vhost:/a", "machines.csv:1:1: \"\" is no IP address;"),
            ("10.0.0.1\n", "machines.csv:1:9: the column mac is missing; expected ip,mac"),
            (
                "10.0.0.1,,af_packet:e",
                "machines.csv:1:10: \"\" is no hardware address; expected a hardware address such as",
            ),
            ("10.0.0.1,\n", "machines.csv:1:10: the slave 10.0.0.1 has no link; expected a third column"),
            ("10.0.0.1, 02:00:00:00:00,vhost:/a", "machines.csv:1:11: \"02:00:00:00:00\" is no hardware address;"),
            ("10.0.0.1,02:00:00:00:00:01:02,vhost:/a", "machines.csv:1:10: \"02:00:00:00:00:01:02\" is no"),
            ("10.0.0.1,02:00:00:00:00:+1,vhost:/a", "machines.csv:1:10: \"02:00:00:00:00:+1\" is no"),
            ("10.0.0.1,0x:00:00:00:00:01,vhost:/a", "machines.csv:1:10: \"0x:00:00:00:00:01\" is no"),
            ("10.0.0.1,03:00:00:00:00:01,vhost:/a", "machines.csv:1:10: \"03:00:00:00:00:01\" is a group address"),
            ("10.0.0.1,00:00:00:00:00:00,af_packet:e", "machines.csv:1:10: 00:00:00:00:00:00 is nobody's"),
            ("10.0.0.1,02:00:00:00:00:01", "machines.csv:1:27: the slave 10.0.0.1 has no link; expected a"),
            ("10.0.0.1,02:00:00:00:00:01,tcp:x", "machines.csv:1:28: unknown link \"tcp:x\"; expected vhost:PATH,"),
            ("10.0.0.1,02:00:00:00:00:01,vhost:", "machines.csv:1:28: unknown link \"vhost:\"; expected vhost:PATH,"),
            (
                "::1,,udp:af_packet:e",
                "machines.csv:1:1: \"::1\" is no IPv4 address of a host; expected the slave's own",
            ),
            ("224.0.0.1,,udp:af_packet:e", "machines.csv:1:1: \"224.0.0.1\" is no IPv4 address of a host; expected"),
            ("10.0.0.1,x,udp:af_packet:e", "machines.csv:1:10: \"x\" is no hardware address; expected a hardware"),
            (
                "10.0.0.1,,udp:vhost:/a",
                "machines.csv:1:11: udp:vhost:/a does not say this host's address; expected udp@",
            ),
            ("10.0.0.1,,udp@::1:vhost:/a", "machines.csv:1:11: \"\" is no IPv4 address of a host; expected udp@"),
            ("::1,02:00:00:00:00:01,vhost:/a,n,much", "machines.csv:1:34: \"much\" is no size; expected one such as"),
            ("::1,02:00:00:00:00:01,vhost:/a,n,1,x", "machines.csv:1:36: a sixth column \"x\"; expected ip,mac"),
            ("::1,02:00:00:00:00:01,\"vhost:/a", "machines.csv:1:23: a quoted field without an end; expected"),
            ("::1,02:00:00:00:00:01,\"vhost:/a\"x", "machines.csv:1:33: 'x' after a quoted field; expected a comma"),
        ];
        for (text, start) in cases {
            let message = message(text);
            assert!(message.starts_with(start), "{text:?} gives {message:?}");
            assert_eq!(message.lines().count(), 1);
        }
    }

    #[test]
    fn a_slave_stands_there_once() {
        let twice = "::1,02:00:00:00:00:01,af_packet:e\n\n::2,02:00:00:00:00:01,af_packet:e\n";
        let start = "machines.csv:3:1: the slave 02:00:00:00:00:01 at af_packet:e stands on line 1 already";
        assert!(message(twice).starts_with(start), "{}", message(twice));
        assert!(parse("::1,02:00:00:00:00:01,vhost:/a\n::1,02:00:00:00:00:02,vhost:/a\n").is_err());
        assert!(parse("::1,02:00:00:00:00:01,vhost:/a\n::1,02:00:00:00:00:01,vhost:/b\n").is_ok());
        assert!(parse("::1,02:00:00:00:00:01,af_packet:e\n::1,02:00:00:00:00:02,af_packet:e\n").is_ok());
    }

    #[test]
    fn a_udp_slave_is_its_ip_address_and_may_have_no_mac() {
        let machines = parse("10.0.0.1,,udp:af_packet:e\n10.0.0.2,00:00:00:00:00:00,udp:af_packet:e\n").unwrap();
        assert!(machines.iter().all(|machine| machine.mac == MacAddr::default() && machine.link.is_udp()));
        assert_eq!(machines[0].link.to_string(), "udp:af_packet:e");
        let router = "10.0.0.1,02:00:00:00:00:01,udp:af_packet:e\n10.0.0.2,02:00:00:00:00:01,udp:af_packet:e\n";
        assert!(parse(router).is_ok(), "two behind one router");
        let twice = "10.0.0.1,,udp:af_packet:e\n10.0.0.1,02:00:00:00:00:01,udp:af_packet:e\n";
        let start = "machines.csv:2:1: the slave 10.0.0.1 at udp:af_packet:e stands on line 1 already";
        assert!(message(twice).starts_with(start), "{}", message(twice));
    }

    #[test]
    fn bytes_that_are_no_text() {
        let error = parse_machines("m", b"# a\n::1,\xff", None).unwrap_err().to_string();
        assert!(error.starts_with("m:2:5: the byte 0xff is not UTF-8; expected text"), "{error}");
    }
}
