//! The machine: QEMU, installed from where it fits, and its command line. Knows devices; never what runs on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::{Options, Prepared};
use crate::packages;
use crate::process::{self, Invocation};
use crate::workspace::Workspace;

const QEMU: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";
/// First major version that emulates every [`Nic`].
const OLDEST: u32 = 8;

/// What emulates instructions, unless `DEMI_GUEST_ACCEL` says otherwise (`kvm`).
const TRANSLATION: &str = "tcg,thread=multi,tb-size=512";

/// Ethernet address of the card under test.
const NIC_MAC: &str = "52:54:00:aa:00:01";
/// Ethernet address of the guest kernel's card on the same segment.
const PEER_MAC: &str = "52:54:00:aa:00:02";

/// A network card that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nic {
    /// Intel 82576.
    Igb,
    /// Intel 82574.
    E1000e,
    /// virtio 1.0.
    Virtio,
    /// VMware's.
    Vmxnet3,
}

impl Nic {
    pub(crate) const ALL: [Nic; 4] = [Nic::Igb, Nic::E1000e, Nic::Virtio, Nic::Vmxnet3];

    /// Those whose tests are part of the guest tier.
    pub(crate) const TESTED: [Nic; 3] = [Nic::Igb, Nic::E1000e, Nic::Virtio];

    /// What `--nic` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Nic::Igb => "igb",
            Nic::E1000e => "e1000e",
            Nic::Virtio => "virtio",
            Nic::Vmxnet3 => "vmxnet3",
        }
    }

    /// The card called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Nic> {
        Nic::ALL.into_iter().find(|nic| nic.name() == name)
    }

    fn device(self) -> &'static str {
        match self {
            Nic::Igb => "igb",
            Nic::E1000e => "e1000e",
            Nic::Virtio => "virtio-net-pci,disable-legacy=on,iommu_platform=on",
            Nic::Vmxnet3 => "vmxnet3",
        }
    }
}

/// Where QEMU is, after installing it if need be: one that emulates every card, which those before version 8 do not.
pub(super) fn ensure(workspace: &Workspace) -> Result<PathBuf, String> {
    if let Some(qemu) = whole() {
        return Ok(qemu);
    }
    let by_hand = format!("missing {QEMU} {OLDEST} or newer: apt-get install {PACKAGE}");
    if !packages::is_root() {
        return Err(format!("{by_hand} (not root, so not installed by itself)"));
    }
    println!("installing {PACKAGE}");
    let apt = |name: &str, options: &str, line: &str| {
        let invocation = Invocation::new("apt-get -q -o DPkg::Lock::Timeout=300")
            .args(options)
            .args(line)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .limit_s(15 * 60);
        process::run(workspace, name, &invocation).is_ok_and(|outcome| outcome.success)
    };
    let install = format!("install -y --no-install-recommends {PACKAGE}");
    apt("apt-update", "", "update");
    if candidate().is_none_or(|major| major < OLDEST) || !apt("guest-qemu", "", &install) {
        // The release's own is too old, or does not go with other parts of QEMU that are here: the backports have a newer one. The
        // machine's own list of sources stays as it is.
        let (options, suite) = backports(workspace).map_err(|error| format!("{by_hand} failed: {error}"))?;
        apt("apt-update-backports", &options, "update");
        apt("guest-qemu-backports", &options, &format!("{install} -t {suite}"));
    }
    whole().ok_or_else(|| format!("{by_hand} failed, see {}", workspace.logs().display()))
}

/// QEMU, if it is here and has the newest of the cards.
fn whole() -> Option<PathBuf> {
    let qemu = packages::find(QEMU)?;
    let help = Command::new(&qemu).args(["-device", "help"]).output().ok()?;
    String::from_utf8_lossy(&help.stdout).contains("name \"igb\"").then_some(qemu)
}

/// Major version of the QEMU that apt would install.
fn candidate() -> Option<u32> {
    let policy = Command::new("apt-cache").args(["policy", PACKAGE]).output().ok()?;
    major(&String::from_utf8_lossy(&policy.stdout))
}

fn major(policy: &str) -> Option<u32> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let upstream = version.rsplit_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.split('.').next()?.trim().parse().ok()
}

/// Options that make apt look at this release's backports as well, and the name of their suite.
fn backports(workspace: &Workspace) -> Result<(String, String), String> {
    let release =
        fs::read_to_string("/etc/os-release").map_err(|error| format!("/etc/os-release: {error}"))?;
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.ok_or("/etc/os-release names no release")?.trim_matches('"').to_owned();
    let suite = format!("{codename}-backports");
    // The archive that this machine takes the release itself from.
    let targets = Command::new("apt-get").args(["indextargets", "--format", "$(SITE) $(CODENAME)"]).output();
    let targets = targets.map_err(|error| format!("apt-get indextargets: {error}"))?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let site = targets.lines().find_map(|line| line.strip_suffix(&codename)).map(str::trim);
    let site = site.ok_or_else(|| format!("apt has no source of {codename}"))?;
    let folder = workspace.target().join("guest").join("apt");
    let state = folder.join("lists/partial");
    fs::create_dir_all(&state).map_err(|error| format!("{}: {error}", state.display()))?;
    let list = folder.join("backports.sources");
    let text = format!(
        "Types: deb\nURIs: {site}\nSuites: {codename} {codename}-updates {suite}\nComponents: main\n\
         Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    );
    fs::write(&list, text).map_err(|error| format!("{}: {error}", list.display()))?;
    let options = format!(
        "-o Dir::Etc::sourcelist={} -o Dir::Etc::sourceparts=- -o Dir::State::lists={} -o APT::Sandbox::User=root",
        list.display(),
        folder.join("lists").display()
    );
    Ok((options, suite))
}

/// The command line for `options`; what the guest leaves behind goes to `shared`.
pub(super) fn invocation(prepared: &Prepared, options: &Options, shared: &Path) -> Invocation {
    let accelerator = env::var("DEMI_GUEST_ACCEL").unwrap_or_else(|_| TRANSLATION.to_owned());
    let mut args: Vec<String> = Vec::new();
    let mut add = |line: &str| args.extend(line.split_whitespace().map(str::to_owned));
    add("-nodefaults -no-user-config -display none -no-reboot -M q35 -bios qboot.rom");
    add(&format!("-accel {accelerator} -cpu max -smp {} -m {}", options.cpus, options.memory_mib));
    add(&format!("-kernel {} -initrd {}", prepared.vmlinux.display(), prepared.initramfs.display()));
    add(&format!("-chardev file,id=console,path={}/console -serial chardev:console", shared.display()));
    add(
        "-device virtio-serial-pci -chardev stdio,id=terminal,signal=off -device virtconsole,chardev=terminal",
    );
    add("-fsdev local,id=machine,path=/,security_model=none,readonly=on,multidevs=remap");
    add("-device virtio-9p-pci,fsdev=machine,mount_tag=machine");
    add(&format!("-fsdev local,id=shared,path={},security_model=none", shared.display()));
    add("-device virtio-9p-pci,fsdev=shared,mount_tag=shared");
    let mut kernel =
        "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr random.trust_cpu=on".to_owned();
    // A processor whose timer the emulator has lost stands still for ever: that is to end the machine, not the patience of who waits.
    kernel += " rcupdate.rcu_cpu_stall_timeout=60 sysctl.kernel.panic_on_rcu_stall=1";
    if let Some(nic) = options.nic {
        add("-device intel-iommu,intremap=on,caching-mode=on");
        add("-netdev hubport,id=under-test,hubid=0 -netdev hubport,id=peer,hubid=0");
        add(&format!("-device virtio-net-pci,netdev=peer,mac={PEER_MAC},romfile="));
        add(&format!("-device {},netdev=under-test,mac={NIC_MAC},romfile=", nic.device()));
        kernel += " intel_iommu=on iommu=pt";
    }
    args.extend(["-append".to_owned(), kernel]);
    Invocation { args, ..Invocation::new(&prepared.qemu.display().to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_debian_writes_them() {
        let policy = |version: &str| format!("{PACKAGE}:\n  Installed: (none)\n  Candidate: {version}\n");
        assert_eq!(major(&policy("1:7.2+dfsg-7+deb12u18+b3")), Some(7));
        assert_eq!(major(&policy("1:10.0.2+ds-2+deb13u1~bpo12+1")), Some(10));
        assert_eq!(major(&policy("(none)")), None);
    }

    #[test]
    fn a_card_comes_behind_an_iommu_and_with_a_peer() {
        let path = |name: &str| PathBuf::from(format!("/{name}"));
        let prepared = Prepared {
            qemu: path("qemu"),
            vmlinux: path("vmlinux"),
            initramfs: path("initramfs"),
            modules: path("modules"),
        };
        let line = |nic| {
            let options = Options { nic, ..Options::default() };
            invocation(&prepared, &options, Path::new("/shared")).line()
        };
        let with = line(Some(Nic::Igb));
        assert!(with.contains("intel-iommu") && with.contains("-device igb,netdev=under-test"), "{with}");
        assert!(with.contains(PEER_MAC) && with.ends_with("iommu=pt"), "{with}");
        assert!(!line(None).contains("netdev"));
    }
}
