"""The words of events, in English and Chinese, as plain text or Markdown, within a number of bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mlsync.tell.choices import LANGUAGES
from mlsync.tell.event import NoticeEvent

_ENGLISH, _CHINESE = LANGUAGES

# What happened, and that it is over where it can be.
_TITLES: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "version": ("New version, proved", "新版本已验证", "", ""),
    "first_proved": ("First proved version", "首个已验证的版本", "", ""),
    "best": ("New best checkpoint", "新的最佳检查点", "", ""),
    "registered": ("Registered in MLflow", "已注册到 MLflow", "", ""),
    "broken": ("Broken checkpoint", "检查点已损坏", "The checkpoint is no longer broken", "检查点不再损坏"),
    "torn": (
        "File unfinished for too long",
        "文件长时间未写完",
        "The file is no longer unfinished",
        "文件不再是未写完状态",
    ),
    "pending": ("Proof pending for too long", "版本长时间未验证", "Versions are proved again", "版本验证已恢复"),
    "store_away": ("The store is away", "存储不可用", "The store works again", "存储已恢复"),
    "failing": ("Backups fail", "备份失败", "Backups work again", "备份已恢复"),
    "behind": ("Backups are behind", "备份滞后", "Backups have caught up", "备份已赶上进度"),
    "silence": ("No new checkpoint", "没有新的检查点", "Checkpoints come again", "检查点已恢复更新"),
    "preemption": (
        "This machine ends soon",
        "本机即将被回收",
        "All is stored after the notice",
        "回收通知后备份已完成",
    ),
    "disk_full": ("The disk is nearly full", "磁盘空间不足", "The disk has room again", "磁盘空间已恢复"),
    "ephemeral_disk": ("The disk goes with the machine", "磁盘会随机器一起消失", "", ""),
    "pruned": ("Prune done", "清理完成", "", ""),
    "damage": ("Damage found in the store", "存储中发现损坏", "The damage is healed", "损坏已修复"),
    "digest": ("The last day", "每日汇总", "", ""),
    "test": ("A test", "测试消息", "", ""),
}
_OVER: Final = ("Over: ", "已结束: ")
_LABELS: Final[Mapping[str, tuple[str, str]]] = {
    "path": ("file", "文件"),
    "what": ("what", "内容"),
    "level": ("proved to", "验证级别"),
    "fitness": ("fitness", "指标"),
    "numbers": ("measured", "评测结果"),
    "epoch": ("epoch", "轮次"),
    "step": ("step", "步数"),
    "model": ("model", "模型"),
    "model_version": ("model version", "模型版本"),
    "alias": ("alias", "别名"),
    "kept": ("content kept of version", "保留的版本内容"),
    "since_s": ("for", "持续时间"),
    "usual_s": ("usual interval", "通常间隔"),
    "unproved_s": ("training that a loss would cost", "若丢失将损失的训练时间"),
    "left_s": ("time left", "剩余时间"),
    "platform": ("platform", "平台"),
    "free_bytes": ("free", "可用空间"),
    "disk": ("disk of", "磁盘"),
    "versions": ("versions", "版本数"),
    "proved": ("proved", "已验证"),
    "failures": ("failed passes", "失败次数"),
    "packs": ("packs", "数据包"),
    "problems": ("problems", "问题数"),
    "bytes": ("bytes freed", "释放空间"),
    "new_bytes": ("new", "新增数据"),
    "status": ("exit status", "退出码"),
}
_MARKS: Final = {"info": "✅", "warning": "⚠️", "error": "❌"}
_UNITS: Final = (("d", "天", 86_400), ("h", "小时", 3600), ("min", "分钟", 60), ("s", "秒", 1))
_KIB: Final = 1024
_CUT: Final = "…"


def title(event: NoticeEvent, language: str) -> str:
    """Return what happened, on one line."""
    english, chinese, over_english, over_chinese = _TITLES[event.kind]
    at = LANGUAGES.index(language)
    said = (english, chinese)[at]
    if event.is_over:
        said = (over_english, over_chinese)[at] or _OVER[at] + said
    where = "/".join(str(part) for part in (event.run, event.version) if part)
    return f"{_MARKS[event.level]} {said}" + (f" · {where}" if where else "")


def plain(event: NoticeEvent, language: str) -> str:
    """Return the event as plain text: its title, and a line for each fact."""
    return "\n".join([title(event, language), *_facts(event, language, "{}: {}")])


def markdown(event: NoticeEvent, language: str) -> str:
    """Return the event in the Markdown that all channels understand: bold, and quotes."""
    return "\n".join([f"**{title(event, language)}**", *_facts(event, language, "> {}: {}")])


def message(
    events: Sequence[NoticeEvent], language: str, show: Callable[[NoticeEvent, str], str], limit_bytes: int
) -> str:
    """Return several events as one text of at most so many bytes; what does not fit is counted."""
    whole: list[str] = []
    for at, event in enumerate(events):
        rest = len(events) - at - 1
        text = "\n\n".join([*whole, show(event, language), *_more(rest, language)])
        if _size(text) > limit_bytes:
            left = _more(len(events) - at, language) if whole else _more(rest, language)
            if not whole:
                tail = "".join(f"\n\n{line}" for line in left)
                return cut(show(event, language), limit_bytes - _size(tail)) + tail
            return cut("\n\n".join([*whole, *left]), limit_bytes)
        whole.append(show(event, language))
    return "\n\n".join(whole)


def cut(text: str, limit_bytes: int) -> str:
    """Return as much of *text* as fits into so many bytes of UTF-8, cut between two characters."""
    if _size(text) <= limit_bytes:
        return text
    room = limit_bytes - _size(_CUT)
    return "" if room < 0 else text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + _CUT


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _more(count: int, language: str) -> list[str]:
    if not count:
        return []
    return [f"… and {count} more" if language == _ENGLISH else f"……另有 {count} 条"]


def _facts(event: NoticeEvent, language: str, form: str) -> list[str]:
    at = LANGUAGES.index(language)
    lines = [
        form.format(_LABELS[name][at], _value(name, value, language))
        for name, value in event.facts.items()
        if name in _LABELS
    ]
    return [*lines, form.format(("machine", "机器")[at], event.host)] if event.host else lines


def _value(name: str, value: float | str, language: str) -> str:
    if isinstance(value, str):
        return value
    if name.endswith("_s"):
        return _span(value, language)
    if name.endswith("bytes"):
        return _amount(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _span(seconds: float, language: str) -> str:
    for english, chinese, unit_s in _UNITS:
        if seconds >= 2 * unit_s or unit_s == 1:
            return f"{seconds / unit_s:.0f} {english if language == _ENGLISH else chinese}"
    raise AssertionError(seconds)


def _amount(size_bytes: float) -> str:
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size_bytes < _KIB:
            break
        size_bytes, unit = size_bytes / _KIB, larger
    return f"{size_bytes:.3g} {unit}" if size_bytes < _KIB else f"{size_bytes:.0f} {unit}"
