"""Other names and texts of the world's items, which share no word with the tags of its website.

With them a model cannot recognise a new item by its words: it has to know what they mean.
"""

from typing import Final

PLAIN_TEXTS: Final[dict[int, tuple[str, str]]] = {
    1: ("Dental insurance", "Medical treatment: pays for check-ups, fillings and braces."),
    2: ("Child accident insurance", "People: a lump sum and treatment when your son or daughter is hurt."),
    3: ("Motorcycle insurance", "Vehicles of your own: liability and damage for motorcycles and scooters."),
    4: ("Automobile insurance", "Vehicles of your own: liability and damage."),
    5: ("Holiday cottage insurance", "Vacation: your cottage by the sea against fire, storm and burst pipes."),
    6: ("Travel insurance", "Vacation: illness, cancellation and luggage, all over the world."),
    7: ("Accident insurance", "People: a lump sum and treatment after an accident."),
    8: ("House insurance", "Where you live: your house against fire, storm and burst pipes."),
    9: ("Horse insurance", "Hobbies and spare time: vet, liability and loss for your horse."),
    10: ("Boat insurance", "Hobbies and spare time: liability and damage for boats with sail or motor."),
    11: ("Valuables insurance", "Bought on the internet or inherited: jewellery, art and watches."),
    12: ("Motor legal aid", "Behind the wheel: lawyers and fees in disputes about your vehicle."),
    13: ("Roadside assistance", "When something is broken: somebody fixes it on the road, day and night, abroad too."),
    14: ("Replacement vehicle", "Transport: you stay mobile while your vehicle is in the garage."),
    15: ("Tyre and key insurance", "Transport: you stay mobile in spite of punctured tyres, damaged rims, lost keys."),
    16: ("Glass insurance", "When something is broken: windscreen and windows, fixed or replaced."),
    17: ("Crash insurance", "Behind the wheel: treatment after a crash, whoever was at fault."),
    18: ("Household goods insurance", "Where you live: your furniture and belongings against theft, fire and water."),
    19: ("Identity theft insurance", "On the internet: costs when somebody uses your name."),
    20: ("Critical illness insurance", "Years to come: a lump sum at a serious diagnosis."),
    21: ("Life insurance", "Years to come: a sum for those you leave behind."),
    22: ("Private doctor insurance", "Medical treatment: specialists, physiotherapy, psychologists, without waiting."),
    23: ("Cat insurance", "Animals in your household: vet bills for your cat."),
    24: ("Dog insurance", "Animals in your household: vet bills and liability for your dog."),
}
"""Item number -> name and text."""
