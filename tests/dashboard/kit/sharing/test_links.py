"""What links stand for: kept for a while, bounded, and never in an address."""

from __future__ import annotations

import pytest
from dashboard_helpers import Clock

from dashboard.kit.sharing.links import LARGEST, OF_ONE, Links
from inspector.errors import CaseError


def test_a_link_is_found_until_it_expires():
    clock = Clock()
    links = Links(keep_for=100, now=clock)
    name = links.keep("a", {"question": "How?"})
    clock.seconds = 99
    assert links.find(name) == {"question": "How?"}
    clock.seconds = 101
    assert links.find(name) is None and len(links) == 0


def test_names_are_random_and_hold_nothing_of_what_they_stand_for():
    links = Links()
    names = {links.keep("a", {"question": "How do I cheat?"}) for _ in range(10)}
    assert len(names) == 10 and not any("cheat" in name for name in names)
    assert all(len(name) >= 16 for name in names) and links.find("nothing") is None


def test_a_visitor_s_own_oldest_link_goes_first_and_never_another_s():
    links = Links()
    other = links.keep("other", {"x": 1})
    own = [links.keep("a", {"x": number}) for number in range(OF_ONE + 3)]
    assert [links.find(name) is None for name in own] == [True] * 3 + [False] * OF_ONE
    assert links.find(other) == {"x": 1}


def test_all_links_together_are_bounded_in_number_and_bytes():
    few = Links(most=5)
    names = [few.keep(str(number), {"x": number}) for number in range(8)]
    assert len(few) == 5 and few.find(names[0]) is None and few.find(names[-1]) == {"x": 7}
    small = Links(most_bytes=2500)
    names = [small.keep(str(number), {"text": "x" * 1000}) for number in range(5)]
    assert len(small) == 2 and small.find(names[-1]) is not None


def test_what_links_of_all_pages_hold_together_is_bounded_and_each_page_opens_its_own():
    first = Links(most_bytes=2500)
    second = Links(most_bytes=2500, beside=first)
    old = first.keep("a", {"text": "x" * 1000})
    names = [second.keep(str(number), {"text": "x" * 1000}) for number in range(2)]
    assert first.find(old) is None and len(first) == len(second) == 2
    assert second.find(names[0]) is not None and first.find(names[0]) is None


def test_texts_that_are_too_long_are_refused_and_nothing_is_kept():
    links = Links()
    with pytest.raises(CaseError, match="too long for a link"):
        links.keep("a", {"kept": {"safe": ("é" * LARGEST, "typed")}})
    assert len(links) == 0
