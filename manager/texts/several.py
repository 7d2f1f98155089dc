"""The same forwards for several lines."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "bulk_title": ("Les mêmes renvois pour {count} lignes", "The same forwards for {count} lines"),
    "bulk_title_one": ("Les mêmes renvois pour 1 ligne", "The same forwards for 1 line"),
    "bulk_none": (
        "Choisissez d’abord au moins une ligne.",
        "First choose at least one line.",
    ),
    "bulk_most": (
        "Au plus {most} lignes à la fois ; les {most} premières sont prises.",
        "At most {most} lines at a time; only the first {most} are taken.",
    ),
    "bulk_keep": ("Ne pas changer", "Leave as it is"),
    "bulk_off": ("Désactiver", "Turn off"),
    "bulk_on": ("Activer", "Turn on"),
    "bulk_nothing": (
        "Choisissez au moins un renvoi à changer.",
        "Choose at least one forward to change.",
    ),
    "bulk_lines": ("Lignes concernées", "Lines concerned"),
    "bulk_ready": ("Lignes à changer : {count}", "Lines to change: {count}"),
    "bulk_refused": ("Restent inchangées : {count}", "Left unchanged: {count}"),
    "bulk_done": ("Lignes changées : {count}", "Lines changed: {count}"),
    "bulk_same": ("Déjà ainsi : {count}", "Already set this way: {count}"),
    "bulk_what": ("Ce qui a changé", "What has changed"),
    "bulk_pays": (
        "Chaque ligne paie les appels qu’elle renvoie.",
        "Each line pays for the calls it forwards.",
    ),
    "forward_one": ("Renvoi", "Forward"),
    "undo": ("Annuler ce changement", "Undo this change"),
    "undo_title": ("Annuler ce changement", "Undo this change"),
}  # fmt: skip
