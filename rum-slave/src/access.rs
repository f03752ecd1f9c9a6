//! Who a slave lets in: on a network only who has a key, unless it is told otherwise.

use std::{path::Path, sync::Arc};

use rum_net::{
    seal::{KeyFile, KeyFileError},
    station::spec::LinkSpec,
};

/// Why a slave may not serve.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Whoever reaches the port could take all memory, and read all that lies in it.
    #[error(
        "{0} may be reached by anybody on its network: make keys with `rum keygen` and name them by --keys FILE, or say \
         --insecure to serve everybody"
    )]
    Unguarded(LinkSpec),
    /// The key file.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
}

/// The keys that a slave on these ports asks for. A vhost-user socket has its permissions to guard it; what comes by a
/// network, or by a switch, needs keys, or `is_insecure`.
pub fn keys(ports: &[LinkSpec], file: Option<&Path>, is_insecure: bool) -> Result<Option<Arc<KeyFile>>, AccessError> {
    let Some(path) = file else {
        let reachable = ports.iter().find(|port| !port.is_point_to_point());
        return match reachable.filter(|_| !is_insecure) {
            Some(port) => Err(AccessError::Unguarded(port.clone())),
            None => Ok(None),
        };
    };
    Ok(Some(Arc::new(KeyFile::read(path)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(texts: &[&str]) -> Vec<LinkSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_network_needs_keys_and_a_socket_does_not() {
        assert!(matches!(keys(&ports(&["vhost:/a", "vhost:/b"]), None, false), Ok(None)));
        for link in ["af_packet:e", "af_xdp:e", "pci:00:01.0", "vdev:net_null0", "vhost-listen:/s", "udp:af_packet:e"] {
            let ports = ports(&["vhost:/a", link]);
            let said = keys(&ports, None, false).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{link} may be reached")) && said.contains("--insecure"), "{said}");
            assert!(said.contains("rum keygen") && said.contains("--keys") && said.lines().count() == 1, "{said}");
            assert!(matches!(keys(&ports, None, true), Ok(None)));
        }
    }

    #[test]
    fn a_bad_key_file_is_an_error_on_any_port() {
        let said = keys(&ports(&["vhost:/a"]), Some(Path::new("/does/not/exist")), false).unwrap_err().to_string();
        assert!(said.starts_with("/does/not/exist: cannot read keys"), "{said}");
    }
}
