"""What operators see."""

from __future__ import annotations

WORDS: dict[str, tuple[str, str]] = {
    "menu_operator": ("Exploitation", "Operations"),
    "fleets": ("Parcs", "Fleets"),
    "live_calls": ("Appels en direct", "Live calls"),
    "registrations": ("Téléphones connectés", "Connected phones"),
    "audit": ("Journal des changements", "Log of changes"),
    "first_only": (
        "Les {most} premiers sur {total}. Cherchez pour en voir d’autres.",
        "The first {most} of {total}. Search for others.",
    ),
    "in_service": ("En service", "In service"),
    "suspended_fleet": ("Suspendu", "Suspended"),
    "suspend": ("Suspendre", "Suspend"),
    "suspend_sure": ("Refuser les appels du parc {fleet}", "Refuse all calls of fleet {fleet}"),
    "resume": ("Remettre en service", "Resume"),
    "cap_hours": (
        "Plafond hors forfait de {fleet}, en heures par mois",
        "Out-of-plan cap of {fleet}, in hours a month",
    ),
    "cap_set": ("Enregistrer", "Save"),
    "cap_none": ("Sans plafond", "No cap"),
    "cap_wrong": (
        "Un nombre d’heures, ou rien pour aucun plafond.",
        "A number of hours, or nothing for no cap.",
    ),
    "see_as": ("Voir comme ce client", "See as this customer"),
    "seeing": (
        "Vous voyez la page comme un client du parc {fleet}. Rien ne peut être modifié.",
        "You are seeing the page as a customer of fleet {fleet}. Nothing can be changed.",
    ),
    "see_end": ("Terminer", "End"),
    "workers_silent": ("Sans réponse de", "No answer from"),
    "live_count": (
        "Appels : {count}. Serveurs d’appels : {workers}.",
        "Calls: {count}. Call servers: {workers}.",
    ),
    "phones_count": (
        "Lignes connectées : {count}, sur {looked} lignes regardées.",
        "Connected lines: {count}, of {looked} lines looked at.",
    ),
    "contact": ("Contact", "Contact"),
    "until": ("Jusqu’à", "Until"),
    "what": ("Quoi", "What"),
    "all_fleets": ("Tous les parcs", "All fleets"),
}  # fmt: skip
