//! Finds libdpdk by pkg-config, generates the bindings and compiles the shim for DPDK's inline functions.

use std::{env, path::PathBuf, process::Command};

/// The libraries whose functions the bindings and the shim call. Drivers are not among them: EAL loads those as
/// plugins when it starts.
const LIBRARIES: [&str; 4] = ["rte_ethdev", "rte_mbuf", "rte_mempool", "rte_eal"];

const FUNCTIONS: [&str; 26] = [
    "rte_eal_init",
    "rte_eal_hotplug_add",
    "rte_eal_hotplug_remove",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eth_dev_count_avail",
    "rte_eth_dev_configure",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_rx_queue_setup",
    "rte_eth_tx_queue_setup",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_dev_close",
    "rte_eth_dev_info_get",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_find_next",
    "rte_eth_dev_socket_id",
    "rte_eth_macaddr_get",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_stats_get",
    "rte_eth_link_get_nowait",
    "rte_pktmbuf_free_bulk",
    "rte_mempool_free",
    "rte_strerror",
];

fn main() {
    for file in ["build.rs", "shim.h", "shim.c", "layout.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let flags = compiler_flags();
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    compile_shim(&flags);
    generate_bindings(&flags);
}

/// Checks the installed version, tells cargo where the libraries are, and returns the C flags of libdpdk: with
/// `-include rte_config.h` and `-march`, which the pkg-config crate does not hand on.
fn compiler_flags() -> Vec<String> {
    let library = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|error| missing(&error.to_string()));
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    let pkg_config = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(pkg_config)
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|error| missing(&error.to_string()));
    if !output.status.success() {
        missing(&String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

fn missing(detail: &str) -> ! {
    eprintln!(
        "dpdk-sys needs DPDK 22.11 or newer: apt-get install libdpdk-dev pkg-config clang libclang-dev\n\n{detail}"
    );
    std::process::exit(1)
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    for flag in flags {
        build.flag(flag);
    }
    // The shim's calls sit on the path of every packet, in debug builds too.
    build.opt_level(2).file("shim.c").file("layout.c").compile("rum_dpdk_shim");
}

fn generate_bindings(flags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(flags)
        .allowlist_function("rum_dpdk_.*")
        .allowlist_type("rte_eth_(conf|rxmode|txmode|dev_info|stats|link)")
        .allowlist_type("rte_ether_addr")
        .allowlist_var("RTE_MAX_ETHPORTS")
        .allowlist_var("RTE_PKTMBUF_HEADROOM")
        .allowlist_var("RTE_ETH_MQ_.*NONE")
        .opaque_type("rte_(mbuf|mempool|device|eth_rxconf|eth_txconf|devargs|intr_handle)")
        .derive_default(true)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(true);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let bindings = builder.generate().unwrap_or_else(|error| {
        missing(&format!("bindgen cannot read DPDK's headers (is libclang-dev installed?): {error}"))
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindings.write_to_file(&out).unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}
