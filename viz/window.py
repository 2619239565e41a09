"""The process of the interactive window: it draws what it is sent and says what was pressed. Run by `viewer`."""

import sys
from multiprocessing.connection import Connection

TITLE = "pods"
KEYS = tuple("abcdefghijklmnopqrstuvwxyz")  # Taichi knows no digits and no punctuation


def main(descriptor: int):
    """Messages in: (picture, camera, panels). Out, one for each: what happened since, a list of tuples.

    ("press", key)  ("hold", [keys])  ("drag", dx, dy)  ("slide", dx, dy)  ("change", widget, value)  ("close",)
    """
    pipe = Connection(descriptor)
    size = pipe.recv()
    import taichi as ti

    from .canvas import Canvas

    ti.init(arch=ti.cpu, log_level=ti.ERROR, cpu_max_num_threads=1)
    canvas = Canvas(size, TITLE, show=True)
    window, cursor = canvas.window, None
    special = {ti.ui.SPACE: "space", ti.ui.LEFT: "left", ti.ui.RIGHT: "right", ti.ui.UP: "up", ti.ui.DOWN: "down"}
    special |= {ti.ui.ESCAPE: "escape"}
    names = special | {key: key for key in KEYS}
    pipe.send("ready")
    while window.running:
        picture, camera, panels = pipe.recv()
        canvas.draw(picture, camera)
        events = _panels(window.get_gui(), panels)
        for event in window.get_events(ti.ui.PRESS):
            if event.key in names:
                events.append(("press", names[event.key]))
        events.append(("hold", [name for key, name in names.items() if window.is_pressed(key)]))
        now = window.get_cursor_pos()
        if cursor is not None:
            moved = (now[0] - cursor[0], now[1] - cursor[1])
            if moved != (0.0, 0.0) and not _over(now, panels):
                for button, name in ((ti.ui.LMB, "drag"), (ti.ui.RMB, "slide")):
                    if window.is_pressed(button):
                        events.append((name, *moved))
        cursor = now
        window.show()
        pipe.send(events)
    pipe.send([("close",)])


def _panels(gui, panels) -> list:
    """Draw each (title, (x, y, width, height), widgets) and say what was changed on it."""
    events = []
    for title, place, widgets in panels:
        with gui.sub_window(title, *place) as panel:
            for kind, name, *value in widgets:
                if kind == "text":
                    panel.text(name, color=value[0])
                elif kind == "slider":
                    new = panel.slider_float(name, *value)
                    if abs(new - value[0]) > 1e-6 * max(1.0, abs(value[0])):
                        events.append(("change", name, new))
                elif kind == "check":
                    new = panel.checkbox(name, value[0])
                    if new != value[0]:
                        events.append(("change", name, new))
                elif kind == "button" and panel.button(name):
                    events.append(("change", name, True))
    return events


def _over(cursor, panels) -> bool:
    """Whether the cursor, y up, lies on a panel, y down from the top."""
    x, y = cursor[0], 1 - cursor[1]
    return any(left <= x <= left + w and top <= y <= top + h for _, (left, top, w, h), _ in panels)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass
