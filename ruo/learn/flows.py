"""A table as people download it: network flows with every wart of CIC-IDS2017, made up, and small.

Names with blanks before them, a column that comes twice, Infinity where a flow took no time, and class names in the
encoding of Windows. The data set that it imitates: Sharafaldin et al., ICISSP 2018, "Toward Generating a New Intrusion
Detection Dataset and Intrusion Traffic Characterization".
"""

from pathlib import Path

import numpy as np
import polars as pl

# class: share of the rows, usual port, and the medians of duration (us), packets, and bytes per packet
_CLASSES = {
    "BENIGN": (0.70, 443, 60_000, 12, 300),
    "DoS Hulk": (0.15, 80, 90_000, 8, 700),
    "PortScan": (0.10, 8080, 60, 2, 40),
    "Web Attack – Brute Force": (0.05, 80, 5_000_000, 20, 200),  # noqa: RUF001  the dash is that of the data set
}
_NO_TIME = 0.003  # the share of flows with a duration of 0


def make_flows(path: Path | str, rows: int = 20_000, seed: int = 0) -> Path:
    """Write a CSV of `rows` flows in code page 1252: an id, nine features, one of them twice, and the class's name; return its path."""
    rng = np.random.default_rng(seed)
    shares, ports, durations, packets, sizes = np.array(list(_CLASSES.values())).T
    kind = rng.choice(len(shares), size=rows, p=shares)
    spread = rng.normal(scale=0.8, size=(3, rows))
    duration = np.where(rng.random(rows) < _NO_TIME, 0, np.rint(durations[kind] * np.exp(spread[0])))
    forward = 1 + rng.poisson(packets[kind] * np.exp(0.5 * spread[1]))
    backward = rng.poisson(0.8 * forward)
    size = np.rint(sizes[kind] * np.exp(0.5 * spread[2]))
    port = np.where(rng.random(rows) < 0.7, ports[kind], rng.integers(1, 65_536, size=rows))
    with np.errstate(divide="ignore"):
        per_second = (forward + backward) * 1e6 / duration
    names = np.array(list(_CLASSES))[kind]
    columns = {
        "Flow ID": [f"10.0.0.{number % 250 + 1}-10.0.1.9-{number}" for number in range(rows)],
        " Destination Port": port.astype(np.int64),
        " Flow Duration": duration.astype(np.int64),
        " Total Fwd Packets": forward,
        " Total Backward Packets": backward,
        "Flow Bytes/s": np.round(size * per_second, 3),
        " Flow Packets/s": np.round(per_second, 3),
        " Fwd Header Length": 20 * forward,
        " Average Packet Size": size.astype(np.int64),
        " Fwd Header Length again": 20 * forward,
        " Label": names,
    }
    text = (
        pl.DataFrame(columns)
        .write_csv(line_terminator="\r\n")
        .replace(" Fwd Header Length again", " Fwd Header Length", 1)
    )
    path = Path(path)
    path.write_bytes(text.replace(",inf", ",Infinity").encode("cp1252"))
    return path
