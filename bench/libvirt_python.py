"""libvirt-python's side of bench/libvirt.mjs: a command a line from stdin, a number a line;
the argument is the URI of a test driver. "serial S", "pipelined S"
(64 threads): calls a second over S seconds; "event N": median seconds from a call to its event; "list URI",
"stats URI": seconds for all domains."""
import statistics
import sys
import threading
from time import perf_counter

import libvirt

IN_FLIGHT = 64


def calls_for(domain, seconds):
    calls = 0
    end = perf_counter() + seconds
    while perf_counter() < end:
        for _ in range(16):
            domain.info()
        calls += 16
    return calls


def serial(domain, seconds):
    start = perf_counter()
    return calls_for(domain, seconds) / (perf_counter() - start)


def pipelined(domain, seconds):
    counts = []
    threads = [threading.Thread(target=lambda: counts.append(calls_for(domain, seconds))) for _ in range(IN_FLIGHT)]
    start = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (perf_counter() - start)


def event(connection, domain, count):
    came = threading.Event()
    at = [0.0]

    def told(*_):
        at[0] = perf_counter()
        came.set()

    number = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, told, None)
    times = []
    for i in range(count):
        came.clear()
        start = perf_counter()
        domain.resume() if i % 2 else domain.suspend()
        came.wait()
        times.append(at[0] - start)
    connection.domainEventDeregisterAny(number)
    return statistics.median(times)


many = {}


def listed(uri, stats):
    if uri not in many:
        many[uri] = libvirt.open(uri)
    connection = many[uri]
    start = perf_counter()
    if stats:
        connection.getAllDomainStats(0)
    else:
        connection.listAllDomains(0)
    return perf_counter() - start


def run_events():
    while True:
        libvirt.virEventRunDefaultImpl()


def main():
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=run_events, daemon=True).start()
    connection = libvirt.open(sys.argv[1])
    domain = connection.lookupByName("test")
    for line in sys.stdin:
        command, argument = line.split()
        if command == "serial":
            answer = serial(domain, float(argument))
        elif command == "pipelined":
            answer = pipelined(domain, float(argument))
        elif command == "event":
            answer = event(connection, domain, int(argument))
        else:
            answer = listed(argument, command == "stats")
        print(f"{answer:.9g}", flush=True)


main()
