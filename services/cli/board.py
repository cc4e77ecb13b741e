"""How `qig top` stands on the screen: four parts, one below the other, looked at again every second or so."""

from collections.abc import Awaitable, Callable
from typing import ClassVar

from redis.exceptions import RedisError
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Header, Static

from services.cli.glance import Glance, bundles_table, kernels_table
from services.cli.show import plain
from services.cli.watch import services_table, streams_table

PARTS = ("kernels", "fleet", "streams", "bundles")


class Board(App[None]):
    """look: reads the fleet now; a broker that is away is shown, and looked for again."""

    TITLE = "qig top"
    CSS = """
    Static { height: auto; width: 100%; padding: 0 1; }
    VerticalScroll Static { border: round $primary; border-title-color: $text; }
    #news { display: none; background: $error; color: $text; }
    #news.shown { display: block; }
    VerticalScroll { scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False),  # as every other command; Textual would only name its own key
        ("space", "pause", "Pause"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, look: Callable[[], Awaitable[Glance]], every_s: float) -> None:
        super().__init__()
        self._look_now = look
        self._every_s = every_s
        self._paused = False
        # Held here: a look that is still under way when the screen closes finds them all the same.
        self._news = Static(id="news")
        self._shown = {name: Static(id=name) for name in PARTS}

    def compose(self) -> ComposeResult:
        """The parts."""
        yield Header(show_clock=True, icon=" ")
        yield self._news
        with VerticalScroll():
            for name, part in self._shown.items():
                part.border_title = name
                yield part
        yield Footer()

    async def on_mount(self) -> None:
        """Look now, and again and again."""
        await self.look()
        self.set_interval(self._every_s, self.look)

    def action_pause(self) -> None:
        """Hold what is shown, to read it; again to go on."""
        self._paused = not self._paused
        self.sub_title = "paused" if self._paused else ""

    async def look(self) -> None:
        """Show the fleet as it is now."""
        if self._paused:
            return
        try:
            glance = await self._look_now()
        except RedisError as error:  # a broker that restarts is something to watch, not a reason to end
            self._news.update(f"the broker is away: {plain(str(error))}")
            self._news.add_class("shown")
            return
        self._news.remove_class("shown")
        tables = (kernels_table(glance), services_table(glance.seen), streams_table(glance.seen), bundles_table(glance))
        for part, table in zip(self._shown.values(), tables, strict=True):
            part.update(table)
