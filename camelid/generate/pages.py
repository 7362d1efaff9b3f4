"""Who holds which page of the cache. Numbers only: the tensors are nn/paged.py's.

A full page is found again by all the tokens up to its end, and only by its owner: it hangs in a tree whose root is the
owner and whose branches are the tokens of a page. Nothing is compared by hash alone, and no owner sees another's.

    owner "a" ── [1 5 9 2] page 7 ── [6 5 3 5] page 3        two requests of "a" that begin with 1 5 9 2 share page 7
    owner "b" ── [1 5 9 2] page 4

A page that nobody uses any more stays until its place is needed; the longest unused go first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


class Node:
    """A full page in the tree. It has no page yet while the request that promised it is still reading; a root has none
    and no parent, but an owner."""

    __slots__ = ("branches", "owner", "page", "parent", "tokens", "users")

    def __init__(self, parent: Node | None, tokens: tuple[int, ...], owner: Hashable = None) -> None:
        self.parent, self.tokens, self.owner = parent, tokens, owner
        self.page: int | None = None
        self.branches: dict[tuple[int, ...], Node] = {}
        self.users = 0


@dataclass(frozen=True)
class Count:
    """Where the pages are: `free`, `kept` for whoever begins alike, or `used` by requests."""

    made: int
    free: int
    kept: int
    used: int

    @property
    def adds_up(self) -> bool:
        return self.made == self.free + self.kept + self.used


class Pages:
    """At most `limit` pages of `page` tokens, made as they are needed; `made` says how many there have to be."""

    def __init__(self, limit: int, page: int) -> None:
        self.limit, self.page, self.made = limit, page, 0
        self._free: list[int] = []
        self._roots: dict[Hashable, Node] = {}
        self._kept: OrderedDict[Node, None] = OrderedDict()  # the longest unused first, and so no branch after its tree
        self._used = 0

    @property
    def left(self) -> int:
        """Pages that can be taken: unmade, free, or kept for nobody in particular."""
        return self.limit - self.made + len(self._free) + len(self._kept)

    def count(self) -> Count:
        return Count(self.made, len(self._free), len(self._kept), self._used)

    def lease(self, owner: Hashable, ids: Sequence[int], *, share: bool = True) -> Lease | None:
        """Pages for a text that begins with `ids`, those already held among them; never that of the last id, which
        has to be read. None while another request of this owner is just reading the page that would come next.

        `share` False takes no page of another's, for who needs to read all of it.
        """
        if owner not in self._roots:
            self._roots[owner] = Node(None, (), owner)
        lease = Lease(self, self._roots[owner])
        whole = (len(ids) - 1) // self.page
        for number in range(whole if share else 0):
            found = lease.end.branches.get(tuple(ids[number * self.page : (number + 1) * self.page]))
            if found is None:
                break
            if found.page is None:
                lease.close()
                return None
            lease.join(found)
        lease.promise(ids, whole)
        return lease

    def take(self) -> int | None:
        """A page for new tokens: a free one, a new one, or the longest kept. None where all are in use."""
        if self._free:
            page = self._free.pop()
        elif self.made < self.limit:
            page, self.made = self.made, self.made + 1
        elif self._kept:
            node, _ = self._kept.popitem(last=False)
            assert node.page is not None and not node.branches
            page = node.page
            self.cut(node)
        else:
            return None
        self._used += 1
        return page

    def give(self, page: int) -> None:
        """A page that no node holds, back among the free ones."""
        self._free.append(page)
        self._used -= 1

    def use(self, node: Node) -> None:
        """One more request reads this node's page."""
        if node.users == 0 and self._kept.pop(node, self) is None:
            self._used += 1
        node.users += 1

    def leave(self, node: Node, *, keep: bool = True) -> None:
        """One request less; a page without any is kept while there is room, or else free at once."""
        node.users -= 1
        if node.users == 0 and keep:
            self._kept[node] = None
            self._used -= 1
        elif node.users == 0:
            assert node.page is not None
            self.give(node.page)
            self.cut(node)

    def cut(self, node: Node) -> None:
        """Takes a node out of the tree, and the tree with its last one."""
        assert node.parent is not None
        del node.parent.branches[node.tokens]
        self.prune(node.parent)

    def prune(self, root: Node) -> None:
        """Forgets an owner who has no request and no page."""
        if root.parent is None and not root.branches and not root.users:
            del self._roots[root.owner]

    @property
    def owners(self) -> int:
        """How many owners have a request or a page."""
        return len(self._roots)


class Lease:
    """The pages of one request, in order. Closing gives back every one of them; more than once does no harm."""

    def __init__(self, pages: Pages, root: Node) -> None:
        self._pages, self._root, self._open = pages, root, True
        root.users += 1
        self._nodes: list[Node] = []  # full pages in the tree; the first ones of `numbers`
        self._promised: list[Node] = []
        self.numbers: list[int] = []
        self.changed = True  # since somebody looked

    @property
    def end(self) -> Node:
        """The last node of the way from the root."""
        return self._nodes[-1] if self._nodes else self._root

    @property
    def held(self) -> int:
        """Tokens that stand in pages of the tree."""
        return len(self._nodes) * self._pages.page

    def join(self, node: Node) -> None:
        """Goes on with a page that is there."""
        assert node.page is not None
        self._pages.use(node)
        self._nodes.append(node)
        self.numbers.append(node.page)

    def promise(self, ids: Sequence[int], whole: int) -> None:
        """Says that the `whole` first pages of these ids will be there soon, so that nobody reads them as well."""
        end, size = self.end, self._pages.page
        for number in range(len(self._nodes), whole):
            tokens = tuple(ids[number * size : (number + 1) * size])
            if tokens in end.branches:
                return
            end.branches[tokens] = end = Node(end, tokens)
            self._promised.append(end)

    def reach(self, tokens: int) -> bool:
        """Takes pages until `tokens` tokens have room; False where there are too few. What was taken stays."""
        while len(self.numbers) * self._pages.page < tokens:
            page = self._pages.take()
            if page is None:
                return False
            self.numbers.append(page)
            self.changed = True
        return True

    def filled(self, ids: Sequence[int], held: int) -> None:
        """Puts pages that are full, now that the first `held` of `ids` are held, into the tree. One that is there
        already is used instead of the own one, which holds the same."""
        size = self._pages.page
        while (number := len(self._nodes)) < held // size:
            tokens = tuple(ids[number * size : (number + 1) * size])
            end, page = self.end, self.numbers[number]
            found = end.branches.get(tokens)
            if found is not None and found.page is not None:
                self._pages.give(page)
                self._pages.use(found)
                self.numbers[number], self.changed = found.page, True
            elif found is not None and found not in self._promised:
                return  # another request has promised it: ours stays our own
            else:
                found = found or end.branches.setdefault(tokens, Node(end, tokens))
                found.page, found.users = page, 1
                if self._promised and self._promised[0] is found:
                    self._promised.pop(0)
            self._nodes.append(found)

    def close(self, *, keep: bool = True) -> None:
        """Gives everything back; full pages stay for who begins alike, until their place is needed. `keep` False leaves
        nothing behind that nobody else reads: what failed is not to be found again."""
        if not self._open:
            return
        self._open = False
        if self._promised:
            self._pages.cut(self._promised[0])
            self._promised = []
        for page in self.numbers[len(self._nodes) :]:
            self._pages.give(page)
        for node in reversed(self._nodes):
            self._pages.leave(node, keep=keep or bool(node.branches))
        self._nodes, self.numbers = [], []
        self._root.users -= 1
        self._pages.prune(self._root)
