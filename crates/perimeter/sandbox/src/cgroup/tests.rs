use super::*;

const OWN: &str = "8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/u\n";
const MOUNTS: &str = "30 29 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n33 29 0:29 /a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n40 29 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

#[test]
fn a_groups_directory_is_found_through_a_mount_that_shows_a_part() {
    let (root, point) =
        mounted(MOUNTS, |kind, options| kind == "cgroup" && options.contains("memory")).expect("is mounted");
    assert_eq!((root, point), ("/a", "/sys/fs/cgroup/memory"));
    assert_eq!(directory("/a/b", root, point), Some("/sys/fs/cgroup/memory/b".into()));
    assert_eq!(directory("/elsewhere", root, point), None);
}

#[test]
fn ones_own_path_is_read_for_version_1_and_2() {
    assert_eq!(own_path(OWN, |controllers| controllers == "memory"), Some("/a/b"));
    assert_eq!(own_path(OWN, str::is_empty), Some("/u"));
    assert_eq!(own_path(OWN, |controllers| controllers == "rdma"), None);
}

struct Directories(PathBuf);

impl Backend for Directories {
    fn controllers(&self) -> Vec<Controller> {
        vec![Controller::Memory]
    }

    fn create(&self, name: &str) -> io::Result<Group> {
        let path = self.0.join(name);
        fs::create_dir(&path)?;
        Ok(Group { directories: vec![(Controller::Memory, path.clone()), (Controller::Pids, path)] })
    }

    fn limit(&self, _group: &Group, limits: &Limits) -> io::Result<()> {
        if limits.processes == 0 { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }
}

const LIMITS: Limits = Limits { memory_bytes: 1 << 20, processes: 1, cpus: 1.0 };

fn groups(directory: &Path) -> usize {
    fs::read_dir(directory).expect("reads").count()
}

fn prepare_all(pool: &mut Pool) {
    while pool.wanted() {
        pool.prepare();
    }
}

#[test]
fn a_pool_makes_groups_ahead_and_leaves_none_behind() {
    let parent = tempfile::tempdir().expect("makes a directory");
    let mut pool = Pool::new(Some(Box::new(Directories(parent.path().to_owned()))));
    prepare_all(&mut pool);
    assert_eq!(groups(parent.path()), READY);
    let taken = pool.take().expect("takes").expect("there is a back end");
    prepare_all(&mut pool);
    assert_eq!(groups(parent.path()), READY + 1);
    assert!(pool.limit(&taken, &LIMITS).is_ok());
    let refused = pool.limit(&taken, &Limits { processes: 0, ..LIMITS });
    assert!(refused.is_err(), "limits that the kernel refuses are an error");
    pool.discard(taken);
    drop(pool);
    assert_eq!(groups(parent.path()), 0);
}

#[test]
fn a_group_that_is_still_busy_is_removed_later() {
    let parent = tempfile::tempdir().expect("makes a directory");
    let mut pool = Pool::new(Some(Box::new(Directories(parent.path().to_owned()))));
    let group = pool.take().expect("takes").expect("there is a back end");
    let busy = group.directories[0].1.join("process");
    fs::create_dir(&busy).expect("makes it busy");
    pool.discard(group);
    assert_eq!(groups(parent.path()), 1);
    fs::remove_dir(busy).expect("ends");
    pool.sweep();
    assert_eq!(groups(parent.path()), 0);
}

#[test]
fn a_processor_share_never_falls_below_what_the_kernel_takes() {
    assert_eq!(Limits { cpus: 0.000_1, ..LIMITS }.quota_us(), 1000);
    assert_eq!(Limits { cpus: 1.5, ..LIMITS }.quota_us(), 150_000);
}

#[test]
fn a_group_that_vanished_from_the_pool_is_replaced() {
    let parent = tempfile::tempdir().expect("makes a directory");
    fs::write(parent.path().join("cgroup.subtree_control"), "").expect("writes");
    let mut pool = Pool::new(Some(Box::new(v2::over(parent.path()))));
    prepare_all(&mut pool);
    for group in &pool.ready {
        group.remove().expect("removes");
    }
    assert!(pool.take().is_ok_and(|group| group.is_some()));
}
