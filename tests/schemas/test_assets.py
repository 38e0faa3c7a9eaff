"""The table of assets against the instrument lists that the venues published, and against what a person says of the difficult names."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest

from schemas.assets import SPELLINGS, VENUE_SPELLINGS, asset_of, base_asset
from schemas.partition import AssetGroups, base_of_instrument, instrument_id, partition_of
from tests.support.paths import DATA

LISTS = DATA / "venues"
VENUES = sorted(path.parent.name for path in LISTS.glob("*/instruments.json"))

# Written by hand: venue, spelling -> asset, units of it in one.
BY_HAND = """
binance  1000PEPE PEPE 1000 | 1000SHIB SHIB 1000 | 1000BONK BONK 1000 | 1000SATS SATS 1000 | 1000RATS RATS 1000 | 1000LUNC LUNC 1000
binance  1000FLOKI FLOKI 1000 | 1000XEC XEC 1000 | 1000CAT CAT 1000 | 1000CHEEMS CHEEMS 1000 | 1000WHY WHY 1000 | 1000X X 1000
binance  1000000MOG MOG 1000000 | 1000000BOB 1000000BOB 1 | BOB BOB 1 | 1MBABYDOGE BABYDOGE 1000000 | 1000BTTC BTT 1000 | CAT CATSTOCK 1
binance  1INCH 1INCH 1 | 0G 0G 1 | 2Z 2Z 1 | 4 4 1 | 42 42 1 | A2Z A2Z 1 | B2 B2 1 | B3 B3 1 | C98 C98 1 | API3 API3 1 | AI16Z AI16Z 1
binance  KAS KAS 1 | KAVA KAVA 1 | KAIA KAIA 1 | KNC KNC 1 | KSM KSM 1 | KMNO KMNO 1 | KODEX200 KODEX200 1 | HK0700 HK0700 1
binance  LUNA2 LUNA 1 | BEAMX BEAM 1 | DODOX DODO 1 | RAYSOL RAY 1 | RONIN RON 1 | NEIRO NEIRO 1 | NEIROETH NEIROETH 1 | PUMP PUMP 1
binance  PUMPBTC PUMPBTC 1 | BANANAS31 BANANAS31 1 | BANANA BANANA 1 | BROCCOLI714 BROCCOLI714 1 | BROCCOLIF3B BROCCOLIF3B 1
binance  TON GRAM 1 | GRAM GRAM 1 | IP DATA 1 | DATAIP DATA 1 | AMD AMD 1 | NOK NOK 1 | VELODROME VELODROME 1 | TURBO TURBO 1 | TAG TAG 1
binance  CSOPSAMSUNG2L CSOPSAMSUNG2L 1 | BTC BTC 1 | BTCDOM BTCDOM 1 | BTCST BTCST 1 | PORT3 PORT3 1 | ETHW ETHW 1 | MATIC MATIC 1 | POL POL 1
bybit    1000000BABYDOGE BABYDOGE 1000000 | 1000000MOG MOG 1000000 | 10000NEX NEX 10000 | 10000SATS SATS 10000 | SHIB1000 SHIB 1000
bybit    1000BTT BTT 1000 | 1000NEIROCTO NEIRO 1000 | 1000TAG TAG 1000 | 1000TOSHI TOSHI 1000 | 1000TURBO TURBO 1000 | 1000CAT CAT 1000
bybit    CATSTOCK CATSTOCK 1 | CATI CATI 1 | AMDSTOCK AMD 1 | APPSTOCK APP 1 | GMESTOCK GME 1 | NOKIA NOK 1 | PUMPFUN PUMP 1 | RAYDIUM RAY 1
bybit    SOLAYER LAYER 1 | LUNA2 LUNA 1 | VELO VELO 1 | VELODROME VELODROME 1 | BEAM BEAM 1 | ETHBTC ETHBTC 1 | 1INCH 1INCH 1 | 4 4 1
bybit    SPX SPX 1 | USD1 USD1 1 | DATA DATA 1 | GRAM GRAM 1 | MNT MNT 1 | CORE CORE 1 | JUP JUP 1 | LIT LIT 1 | QNT QNT 1 | QNTX QNTX 1
okx      PEPE PEPE 1 | BONK BONK 1 | SHIB SHIB 1 | SATS SATS 1 | FLOKI FLOKI 1 | CAT CAT 1 | NEIRO NEIRO 1 | LUNA LUNA 1 | RAY RAY 1
okx      BABYDOGE BABYDOGE 1 | TURBO TURBO 1 | TOSHI TOSHI 1 | NOK NOK 1 | GME GME 1 | PUMP PUMP 1 | RON RON 1 | LAYER LAYER 1 | KR200 KR200 1
bitget   1000CAT CAT 1000 | CAT CATSTOCK 1 | 1MCHEEMS CHEEMS 1000000 | 1MBABYDOGE BABYDOGE 1000000 | NEIROCTO NEIRO 1 | 1000SATS SATS 1000
bitget   10000NEX NEX 10000 | NDX100 NDX100 1 | SP500 SP500 1 | STX STX 1 | STXSTOCK STXSTOCK 1 | QNT QNT 1 | QNTSTOCK QNTSTOCK 1 | BB BB 1
bitget   BBSTOCK BBSTOCK 1 | RTXSTOCK RTXSTOCK 1 | NOKSTOCK NOK 1 | 龙虾 龙虾 1 | LUNA LUNA 1 | SHIB SHIB 1 | PEPE PEPE 1 | 1000BONK BONK 1000
hyperliquid kPEPE PEPE 1000 | kSHIB SHIB 1000 | kBONK BONK 1000 | kFLOKI FLOKI 1000 | kLUNC LUNC 1000 | kNEIRO NEIRO 1000 | KAS KAS 1 | KAITO KAITO 1
hyperliquid 0G 0G 1 | 2Z 2Z 1 | S S 1 | W W 1 | ZK ZK 1 | BTC BTC 1
coinbase BTC BTC 1 | 00 00 1 | 2Z 2Z 1 | LIGHTER LIT 1 | MANTLE MNT 1 | JUPITER JUP 1 | BOBBOB BOB 1 | CORECHAIN CORE 1 | TON GRAM 1 | IP DATA 1 | PEPE PEPE 1
"""


MET = [
    "BTC",
    "ETH",
    "SOL",
    "XRP",
    "PEPE",
    "SHIB",
    "BONK",
    "FLOKI",
    "NEIRO",
    "SATS",
    "MOG",
    "BABYDOGE",
    "LUNC",
    "CAT",
    "GRAM",
    "DATA",
    "LIT",
]
MET += [
    "JUP",
    "MNT",
    "RAY",
    "PUMP",
    "LAYER",
    "1INCH",
    "BOB",
    "CATSTOCK",
    "NOK",
    "AMD",
    "LUNA",
    "BEAM",
    "RON",
    "NEX",
    "CHEEMS",
    "TOSHI",
    "TURBO",
]


def listed(venue: str) -> list[list[str]]:
    rows: list[list[str]] = json.loads((LISTS / venue / "instruments.json").read_text(encoding="utf-8"))["instruments"]
    return rows


def by_hand() -> list[tuple[str, str, str, int]]:
    found = []
    for line in BY_HAND.strip().splitlines():
        venue, _, rest = line.partition(" ")
        for cell in rest.split("|"):
            spelling, asset, units = cell.split()
            found.append((venue, spelling, asset, int(units)))
    return found


@pytest.mark.parametrize(("venue", "spelling", "asset", "units"), by_hand())
def test_the_difficult_names_mean_what_a_person_says(venue, spelling, asset, units):
    assert spelling in {row[1] for row in listed(venue)}, "the expectation is about a name that the venue does not list"
    assert asset_of(spelling, venue.upper()) == (asset, units)


def test_every_name_that_looks_difficult_was_judged_by_hand():
    """A digit, a lower-case letter, or a look at the tables: each such name of each list has a line above."""
    judged = {(venue, spelling) for venue, spelling, _, _ in by_hand()}
    for venue in VENUES:
        for _, base, _, _ in listed(venue):
            if asset_of(base, venue.upper()) != (base, 1):
                assert (venue, base) in judged or base in SPELLINGS or venue in ("grvt", "lighter") or base in MULTIPLIERS_ELSEWHERE, (
                    venue,
                    base,
                )


# Multiplier names that a second venue lists under the same spelling: judged once.
MULTIPLIERS_ELSEWHERE = {spelling for _, spelling, _, units in by_hand() if units > 1}


@pytest.mark.parametrize("venue", VENUES)
def test_no_two_names_of_a_venue_are_taken_for_one_asset(venue):
    """A venue lists an asset once per quote and kind, so two names of one asset are two assets, but for contracts that were replaced."""
    # Closed contracts whose asset came back under a new name; their histories belong together, or to nobody who still trades.
    replaced = {
        "binance": {
            frozenset({"RAY", "RAYSOL"}), frozenset({"DODO", "DODOX"}), frozenset({"LUNA", "LUNA2"}), frozenset({"BTT", "1000BTTC"}),
            frozenset({"TON", "GRAM"}), frozenset({"IP", "DATAIP"}),
        }
    }  # fmt: skip
    names: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for _, base, quote, kind in listed(venue):
        names[base_asset(base, venue.upper()), quote, kind].add(base)
    for asset, spellings in names.items():
        assert len(spellings) == 1 or frozenset(spellings) in replaced.get(venue, ()), (asset, spellings)


@pytest.mark.parametrize("asset", MET)
def test_the_same_asset_meets_itself_on_every_venue_that_lists_it(asset):
    on = {venue: {base for _, base, _, _ in listed(venue) if base_asset(base, venue.upper()) == asset} for venue in VENUES}
    venues = [venue for venue, bases in on.items() if bases]
    assert len(venues) >= 2, on
    places = {
        partition_of(base_of_instrument(_instrument(venue, row)), 12, AssetGroups())
        for venue in venues
        for row in listed(venue)
        if row[1] in on[venue]
    }
    assert len(places) == 1


def _instrument(venue: str, row: list[str]) -> str:
    return instrument_id(venue.upper(), row[0], row[3])


@pytest.mark.parametrize("venue", VENUES)
def test_the_id_alone_tells_the_same_asset_as_the_venues_own_base(venue):
    for row in listed(venue):
        assert base_of_instrument(_instrument(venue, row)) == base_asset(row[1], venue.upper()), row


def test_tables_lead_to_assets_and_not_to_further_spellings():
    for asset, units in [*SPELLINGS.values(), *VENUE_SPELLINGS.values()]:
        assert asset_of(asset) == (asset, 1)
        assert units in (1, 1000)
    for spelling in SPELLINGS:
        assert asset_of(f"1000{spelling}").units == 1000 * asset_of(spelling).units


def test_grvt_writes_kilo_tokens_in_capitals_and_names_with_k_stay():
    assert base_of_instrument("GRVT:KPEPE_USDT_Perp-PERP") == "PEPE" == base_of_instrument("LIGHTER:1000PEPE-PERP")
    assert asset_of("KSHIB") == ("SHIB", 1000) and asset_of("KBONK") == ("BONK", 1000)
    for spelling in ("KAVA", "KAS", "KAITO", "KGEN", "KITE", "KERNEL", "KNC", "AVA"):
        assert asset_of(spelling) == (spelling, 1)


def test_all_lists_are_there():
    assert {"binance", "bybit", "okx", "bitget", "hyperliquid", "coinbase", "grvt", "lighter"} <= set(VENUES)
    for venue in VENUES:
        rows = listed(venue)
        assert all(re.fullmatch(r"\S+", row[0]) and row[3] in ("perp", "spot") for row in rows)
        assert len({(row[0], row[3]) for row in rows}) == len(rows)
